"""The attacks as a table, and which bars each row is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text

Record = dict[str, Any]
RATES = (0.1, 0.05, 0.01)
# The rate whose row the bars hold for: at 10 % no clean image of the class would be left to these.
MEANT = {"sig": 0.05, "label-consistent": 0.05, "tact": 0.02, "cheatkd": 0.02}
NO_RATE = ("leak", "adba", "scar")  # whose rate is no share of poisoned images
LEAST_ASR, KEPT = 95.0, 1.5
EASIER = {"cheatkd": 90.0, "wanet": 90.0, "input-aware": 90.0, "bpp": 90.0}
TO_ALL, IGNORED = 80.0, 10.0  # all-to-all is limited by ACC; SCAR's teacher is to ignore its trigger
COLUMNS = ("attack", "rate %", "epochs", "ACC %", "less than the twin", "ASR %", "floor %", "seconds", "bars")


def misses(config: Record, result: Record, twin: float | None) -> list[str] | None:
    """What a row falls short of, in words; None for a row without bars."""
    name = config["attack"]
    if name == "none" or (name not in NO_RATE and config["rate"] != MEANT.get(name, RATES[0])):
        return None
    found = [] if twin is not None else ["no twin yet"]
    if twin is not None and result["acc"] < twin - KEPT:
        found.append(f"ACC more than {KEPT:g} below the twin")
    if name == "scar":
        return found + ([f"ASR above {IGNORED:g}"] if result["asr"] > IGNORED else [])
    least = TO_ALL if config.get("rule") else EASIER.get(name, LEAST_ASR)
    return found + ([f"ASR below {least:g}"] if result["asr"] < least else [])


def twin_epochs(epochs: int) -> int:
    """Of the training without poison that an attack of so many epochs is held against."""
    return max(epochs, 2)


def _twin(config: Record) -> tuple[int, int]:
    return config["seed"], twin_epochs(config["epochs"])


def tables(records: Sequence[Record]) -> str:
    """A row per record; the twin is the record of the attack "none" of as many epochs at the same seed."""
    twins = {_twin(r["config"]): float(r["result"]["acc"]) for r in records if r["config"]["attack"] == "none"}
    lines = head(COLUMNS)
    for record in sorted(records, key=lambda r: (r["config"]["attack"], -r["config"].get("rate", 0))):
        config, result = record["config"], record["result"]
        twin, own = twins.get(_twin(config)), float(result["acc"])
        missed = misses(config, result, twin)
        rule = f", {config['rule']}" if config.get("rule") else ""
        lines.append(
            line(
                [
                    text.markdown(config["attack"] + rule),
                    f"{100 * config['rate']:g}" if "rate" in config else "–",
                    str(config["epochs"]),
                    f"{own:.2f}",
                    "–" if twin is None or config["attack"] == "none" else f"{twin - own:.2f}",
                    *(f"{result[key]:.2f}" if key in result else "–" for key in ("asr", "floor")),
                    f"{result['seconds']:.0f}",
                    "–" if missed is None else "met" if not missed else "**" + ", ".join(missed) + "**",
                ]
            )
        )
    warned = [
        f"- {text.markdown(r['config']['attack'])}: {text.markdown(w)}"
        for r in records
        for w in r["result"].get("warnings", ())
    ]
    return "\n".join([*lines, "", *warned, *[""] * bool(warned), provenance(records)])
