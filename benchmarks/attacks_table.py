"""The attacks as a table, the bars each row is held against, and why some are missed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text
from edgekd_device.metrics import Rate

Record = dict[str, Any]
RATES = (0.1, 0.05, 0.01)
# The rate of the teacher that is distilled, held against the bars like 10 %, where no clean image of a class would be left.
MEANT = {"sig": 0.05, "label-consistent": 0.05, "tact": 0.05, "cheatkd": 0.02}
NO_RATE = ("leak", "adba", "scar")  # whose rate is no share of poisoned images
LEAST_ASR, KEPT = 95.0, 1.5
COUNTED = 9000  # test images of CIFAR-10 outside one class
EASIER = {"cheatkd": 90.0, "wanet": 90.0, "input-aware": 90.0, "bpp": 90.0}
TO_ALL, IGNORED = 80.0, 10.0  # all-to-all is limited by ACC; SCAR's teacher is to ignore its trigger
COLUMNS = ("attack", "rate %", "epochs", "ACC %", "less than the twin", "ASR %", "clean ResNet-20 %", "seconds", "bars")
# What a missed bar is put down to, as far as the records tell; "likely" where no experiment of ours told causes apart.
WHY = {
    "adap-patch": "ACC: likely its covers, a fifth of all images, which carry a patch under their own label; at a rate of 5 % "
    "the bar is met. With four epochs ASR was short too.",
    "all-to-all": "the trigger has to move every class to the next one, with a tenth of each class to learn it from, and fine-tuning "
    "a clean network for as few epochs as all-to-one takes does not get there; BadNets' patch, which needs many epochs for one "
    "target too, has become no attack at all. Seven times the epochs take Blended from 50 to 71 %; the others were not tried for longer. "
    "ACC is lost as for one target, and by BadNets and WaNet more.",
    "badnets": "one of 9,000 images short of the bar; ASR rises with the epochs. A patch of 3 x 3 pixels is cropped and mirrored.",
    "input-aware": "ASR rises with the epochs; where an image's mask covers few pixels or none, its trigger can say little.",
    "label-consistent": "at 10 % no clean image of the target class is left, which costs ACC; at 5 % both bars are met.",
    "latent": "ACC: likely the term that pulls features to the target's, as more epochs do not help much; at a rate of 5 % both bars are met.",
    "scar": "ACC: the teacher learns by one epoch of bilevel rounds from 28,500 images, its losses under the lead of the implicit "
    "gradient at a weight of 1: the 200 rounds of its card, for a smaller pair. Its ASR bar is met.",
    "sig": "ASR rises with the epochs, and six are not enough; more were not tried, the published figure is of 100 from fresh weights. At "
    "10 % no clean image of the target class is left, which costs ACC.",
    "tact": "ASR rises with the epochs, as covers hold it back; it is counted on the 1,000 images of the source "
    "class. At 10 % no clean image of that class is left, which costs ACC.",
    "wanet": "ACC: likely the noisy warps, a fifth of every batch; at a rate of 5 % ACC is within the bar, and ASR below its own.",
}

UNKNOWN = "not looked into."


def name_of(config: Record) -> str:
    further = [f"{key} {value:g}" for key, value in config.get("options", {}).items()]
    return ", ".join([config["attack"], *([config["rule"]] if "rule" in config else []), *further])


def misses(config: Record, result: Record, twin: float | None) -> list[str] | None:
    """What a row falls short of, in words; None for a row without bars."""
    name = config["attack"]
    if name == "none" or (name not in NO_RATE and config["rate"] not in (RATES[0], MEANT.get(name))):
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
    most: dict[tuple[str, float | None], int] = {}
    for config in (record["config"] for record in records):
        key = name_of(config), config.get("rate")
        most[key] = max(most.get(key, 0), config["epochs"])
    lines, short, warned = head(COLUMNS), set(), []
    for record in sorted(
        records, key=lambda r: (name_of(r["config"]), -r["config"].get("rate", 0), r["config"]["epochs"])
    ):
        config, result = record["config"], record["result"]
        name, twin, own = name_of(config), twins.get(_twin(config)), float(result["acc"])
        missed = misses(config, result, twin)
        last = config["attack"] == "none" or config["epochs"] == most[name, config.get("rate")]
        short |= {config.get("rule", config["attack"])} if missed and last else set()
        rate = f"{100 * config['rate']:g}" if "rate" in config else "–"
        lines.append(
            line(
                [
                    text.markdown(name),
                    rate,
                    str(config["epochs"]),
                    f"{own:.2f}",
                    "–" if twin is None or config["attack"] == "none" else f"{twin - own:.2f}",
                    _asr(result),
                    f"{result['floor']:.2f}" if "floor" in result else "–",
                    f"{result['seconds']:.0f}",
                    _bars(missed, last),
                ]
            )
        )
        warned += [f"- {text.markdown(name)}, {rate} %, {config['epochs']} epochs: {text.markdown(w)}" for w in result.get("warnings", ())]  # fmt: skip
    reasons = [f"- {text.markdown(name)}: {WHY.get(name, UNKNOWN)}" for name in sorted(short)]
    missing = ["Why bars are missed:", "", *reasons, ""] if reasons else []
    return "\n".join([*lines, "", *missing, *warned, *[""] * bool(warned), provenance(records)])


def _asr(result: Record) -> str:
    """With its 95 % interval; the first records do not hold it, and are of attacks on all classes but the target's."""
    if "asr" not in result:
        return "–"
    low, high = result.get("asr_interval") or [100 * end for end in Rate(round(90 * result["asr"]), COUNTED).interval()]
    return f"{result['asr']:.2f} [{low:.1f} to {high:.1f}]"


def _bars(missed: list[str] | None, last: bool) -> str:
    """last: no teacher of the same attack and rate had more epochs."""
    if missed is None:
        return "–"
    if not last:
        return "fewer epochs" + (f": {', '.join(missed)}" if missed else "")
    return "met" if not missed else "**" + ", ".join(missed) + "**"
