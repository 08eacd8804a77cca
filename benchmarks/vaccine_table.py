"""The shuffling vaccine as a table: what it accepts and suspects, by teacher and by how much is shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text

Record = dict[str, Any]
COLUMNS = ("teacher", "shuffled", "accepted", "tail of the patches %", "AUC", "suspected: patches %", "clean %", "triggered %")  # fmt: skip


def tables(records: Sequence[Record]) -> str:
    """Shuffled: the last so many convolutions. Of a teacher without an accepted shuffle the first one's figures."""
    lines = head(COLUMNS)
    for record in sorted(records, key=lambda r: (r["config"]["teacher"], -r["config"]["layers"])):
        result = record["result"]
        lines.append(
            line(
                [
                    text.markdown(record["config"]["teacher"].removesuffix(".pth").removesuffix(".tar")),
                    str(result["convolutions"]),
                    f"trial {result['trial'] + 1}" if result["accepted"] else "none",
                    f"{100 * max(result['tails']):.1f}",
                    f"{result['auc']:.3f}",
                    *(f"{result['suspected'][kind]:.1f}" for kind in ("patches", "clean", "triggered")),
                ]
            )
        )
    return "\n".join([*lines, "", provenance(records)])
