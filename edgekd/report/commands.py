"""What the single commands print: a device report, an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..types import DeviceReport, Rate, TriggerScore
from . import device, teaching, text

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 12


def rate(value: Rate | None) -> str:
    """``91.2 % (912/1000, 89.3–92.8)``, or "not measured"."""
    if value is None or not value.total:
        return "not measured"
    low, high = value.interval()
    return f"{100 * value.value:.1f} % ({value.hits}/{value.total}, {100 * low:.1f}–{100 * high:.1f})"


def device_table(report: DeviceReport) -> Table:
    """One row per model file of a bundle: ACC, worst ASR, size, latency; whether the report is valid."""
    from rich.text import Text

    table = _table("file", "precision", "ACC", "worst ASR", "size", "p50 ms", "p99 ms")
    for row in report.rows:
        worst = max(row.triggers, key=lambda s: s.asr.value, default=None)
        latency = row.latency
        table.add_row(
            row.stage,
            row.precision,
            rate(row.acc),
            rate(worst.asr) if worst else "not measured",
            "not measured" if row.size_bytes is None else f"{row.size_bytes:,}",
            "not measured" if latency is None else f"{latency.p50_ms:.3f}",
            "n/a" if latency is None or latency.p99_ms is None else f"{latency.p99_ms:.3f}",
        )
    state = "valid" if report.valid else "NOT VALID"  # the reasons are what the command ends with
    said = [f"{name}: {line}" for name, line in device.lines(report.to_json()).items()]
    said.append(f"level {report.level}, {state}; manifest {report.manifest_sha256[:12]}…")
    table.caption = Text("\n".join(said), style="table.caption")  # a Text, so that no [word] in it is taken for markup
    return table


def audit_tables(
    about: Mapping[str, Any],
    acc: Rate,
    scores: Sequence[TriggerScore],
    canaries: Mapping[str, Any] | None,
    warnings: Sequence[str],
    *,
    before: Mapping[str, Any] | None,
    verdict: str,
    found: bool,
    taught: Mapping[str, Any] | None = None,
    inverted: bool = False,
) -> list[Any]:
    """What `edgekd audit` prints, top to bottom.

    before: what the model before the defence does, and DER. found: whether a trigger works, as the ``verdict`` says.
    taught: what audit.teaching found, if it was held against a reference. inverted: patches were searched for.
    """
    parts: list[Any] = [f"{about['file']}: {about['spec']['arch']}, ACC {rate(acc)}"]
    if scores:
        table = _table("trigger", "ASR", "floor", "untriggered", "RA")
        for score in scores:
            table.add_row(score.trigger, rate(score.asr), rate(score.floor), rate(score.untriggered), rate(score.ra))
        parts.append(table)
    if before is not None:
        parts += _defended(before)
    if canaries is not None:
        parts += _canaries(canaries)
    if taught is not None:
        parts.append(teaching.sentence(taught))
    parts += [f"warning: {warning}" for warning in (*about["warnings"], *warnings)]
    untested = "Not tested: sample-specific and learned triggers" + ("." if inverted else ", trigger inversion.")
    parts.append(untested if found else f"{untested} “Nothing found” is not “clean”.")
    return [*parts, text.clean(verdict)]


def _defended(before: Mapping[str, Any]) -> list[Any]:
    table = _table("before the defence", "ASR", "RA", "DER")
    for row in before["triggers"]:
        der = "not measured" if row["der"] is None else f"{row['der']:.3f}"
        table.add_row(row["trigger"], rate(Rate(**row["asr"])), rate(Rate(**row["ra"])), der)
    table.caption = "DER, defence effectiveness rate: 1 is best, 0.5 is no effect (Zhu et al. 2023)"
    return [f"before: {before['file']}, ACC {rate(Rate(**before['acc']))}", table]


def _canaries(canaries: Mapping[str, Any]) -> list[Any]:
    flagged = canaries["flagged"]
    table = _table("canary", "target", "ASR", canaries["reference"])
    for row in (flagged or canaries["worst"])[:MOST_ROWS]:
        table.add_row(
            row["trigger"],
            str(row["target"]),
            rate(Rate(**row["asr"])),
            rate(Rate(**(row["floor"] or row["untriggered"]))),
        )
    head = (
        f"{len(flagged)} of {canaries['variants']} x {len(canaries['targets'])} canaries work; the strongest:"
        if flagged
        else "No public canary trigger works; the nearest of each family:"
    )
    return [head, table]


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table
