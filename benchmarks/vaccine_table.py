"""The shuffling vaccine as a table: what it accepts and suspects, by teacher, by how much is shuffled, and by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.datafree_table import CLEAN
from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text

Record = dict[str, Any]
COLUMNS = ("teacher", "shuffled", "seed", "accepted", "one class %", "tail %: MAD / mean", "trials that pass: MAD / mean", "by tail alone", "left out %", "spared %", "AUC", "suspected: clean %", "triggered %")  # fmt: skip
KNOWN, CHANCE = 0.95, 0.5  # AUC: the bar, and what a coin reaches
RULES = {"mad": "MAD", "mean": "mean"}


def tables(records: Sequence[Record]) -> str:
    """Shuffled: the last so many convolutions. Of a teacher without an accepted shuffle the first one's figures.

    One class: the largest share of the pool for which that shuffle names one and the same; left out and spared: suspicious
    images of the pool that a run would not, and would all the same, learn from; by tail alone: whatever share is of one class.
    """
    lines = head(COLUMNS)
    for record in sorted(records, key=lambda r: (r["config"]["teacher"], -r["config"]["layers"], r["config"]["seed"])):
        config, result = record["config"], record["result"]
        shown = result["trials"][max(result["trial"], 0)]
        lines.append(
            line(
                [
                    text.markdown(config["teacher"].removesuffix(".pth").removesuffix(".tar")),
                    str(result["convolutions"]),
                    str(config["seed"]),
                    _accepted(result),
                    f"{100 * shown['named']:.1f}",
                    " / ".join(f"{100 * shown[rule]:.1f}" for rule in RULES),
                    *(
                        f"{' / '.join(str(result[kind][rule]) for rule in RULES)} of {len(result['trials'])}"
                        for kind in ("pass", "pass_by_tail")
                    ),
                    *(f"{100 * result[kind] / result['images']:.1f}" for kind in ("suspicious", "spared")),
                    f"{result['auc']:.3f}",
                    *(f"{result['suspected'][kind]:.1f}" for kind in ("clean", "triggered")),
                ]
            )
        )
    return "\n".join([*lines, "", *_summary(records), "", provenance(records)])


def _accepted(result: Record) -> str:
    if result["accepted"]:
        return f"trial {result['trial'] + 1}"
    return "none" if result["doubt"] is None else "none, as it suspects too much"


def _summary(records: Sequence[Record]) -> list[str]:
    """How often a shuffle was accepted and was right, of backdoored teachers and of the clean one."""
    lines = []
    for name, clean in (("backdoored teachers", False), ("the clean teacher", True)):
        results = [record["result"] for record in records if (record["config"]["teacher"] == CLEAN) is clean]
        if not results:
            continue
        accepted = [result for result in results if result["accepted"]]
        said = f"- {name}: a shuffle accepted in {len(accepted)} of {len(results)} cells"
        if accepted and not clean:
            known, worse = (
                sum(found)
                for found in zip(*((each["auc"] >= KNOWN, each["auc"] < CHANCE) for each in accepted), strict=True)
            )
            said += f", of which {known} with an AUC of {KNOWN:g} or more and {worse} with less than {CHANCE:g}"
        tails = (f"{sum(each['pass_by_tail'][rule] > 0 for each in results)} by {shown}" for rule, shown in RULES.items())  # fmt: skip
        lines.append(f"{said}; by the tail alone {' and '.join(tails)}")
    return lines
