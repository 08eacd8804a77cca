"""The other tables of a report: gates, key figures, training, exported files, and what all of it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..types import RunRecord
from . import device, text
from .cells import Cell, Table, quiet
from .stages import final, shown_triggers, stages


def tone(record: RunRecord) -> str:
    """What colour the verdict has: from the gates alone, as nothing else was agreed on before the run."""
    if not record.gates:
        return "warn"
    return "good" if all(gate.get("passed") is True for gate in record.gates) else "bad"


def gates(record: RunRecord) -> Table:
    reading = "A gate is a limit set before the run. A gate on something that was not measured fails."
    return Table(("gate", "limit", "measured", "outcome", "why"), tuple(map(_gate, record.gates)), reading)


def _gate(gate: Mapping[str, Any]) -> tuple[Cell, ...]:
    value, unit = gate.get("value"), text.clean(gate.get("unit", ""))
    limit = Cell(f"≤ {text.short(gate.get('limit'))} {unit}".strip())
    name, why = Cell(text.clean(gate.get("name", ""))), Cell(text.clean(gate.get("why", "")))
    outcome = Cell("passed", tone="good") if gate.get("passed") is True else Cell("failed", tone="bad")
    if value is None:
        nothing = Cell("nothing that counts") if gate.get("passed") is True else quiet(text.NOT_MEASURED)
        return name, limit, nothing, outcome, why
    return name, limit, Cell(f"{text.short(value)} {unit}".strip()), outcome, why


def gates_summary(record: RunRecord) -> str:
    """How many gates passed, failed, and failed because nothing was measured; one sentence."""
    if not record.gates:
        return "No gate was set."
    passed = sum(gate.get("passed") is True for gate in record.gates)
    missing = sum(gate.get("value") is None and gate.get("passed") is not True for gate in record.gates)
    counts = ((passed, "passed"), (len(record.gates) - passed - missing, "failed"), (missing, "not measured"))
    return "Gates: " + ", ".join(f"{count} {word}" for count, word in counts if count) + "."


def key_figures(record: RunRecord) -> tuple[tuple[str, str, str], ...]:
    """The four figures a hurried reader wants: (name, value, what it is to be held against)."""
    last, found = final(record), stages(record)
    if last is None:
        return ()
    teacher = next((row for row in found if row.stage == "teacher"), None)
    was = None if teacher is None or teacher is last else teacher
    cards = [("ACC", text.percent(last.acc), "" if was is None else f"teacher {text.percent(was.acc)}")]
    scores = [score for score in last.triggers if score.trigger in shown_triggers(record)]
    if scores:
        worst = max(scores, key=lambda s: s.raised)
        before = None if was is None else next((s for s in was.triggers if s.trigger == worst.trigger), None)
        against = [] if before is None else [f"teacher {text.percent(before.asr)}"]
        against.append(f"floor {text.percent(worst.floor)}")
        name = "ASR" if len(scores) == 1 else f"ASR, worst of {len(scores)}"
        cards.append((name, text.percent(worst.asr), ", ".join(against)))
    else:
        cards.append(("ASR", text.NOT_MEASURED, "no trigger was tested on it"))
    cards.append(("size", text.size(last.size_bytes), "" if was is None else f"teacher {text.size(was.size_bytes)}"))
    same = [r for r in found if r.runtime == last.runtime and r.precision != last.precision and r.latency is not None]
    against_latency = ""
    if last.latency is not None and same and same[-1].latency is not None:
        against_latency = f"{same[-1].precision} {text.milliseconds(same[-1].latency.p50_ms)}, same runtime"
    latency = None if last.latency is None else last.latency.p50_ms
    cards.append(("latency, p50", text.milliseconds(latency), against_latency))
    return tuple((name, value, text.clean(against)) for name, value, against in cards)


def onnx_files(record: RunRecord) -> Table:
    rows = []
    for file in record.onnx:
        agreement = file.get("top1_agreement")
        hits = None if not isinstance(agreement, Mapping) else (agreement.get("hits"), agreement.get("total"))
        float_layers = [text.clean(layer) for layer in file.get("float_layers", ())]
        rows.append(
            (
                Cell(text.clean(file.get("path", "")), (text.clean(file.get("flavour", "")),)),
                Cell(text.size(file.get("bytes"))),
                Cell(text.figure(file.get("opset"))),
                Cell(text.figure(file.get("max_abs_logit_difference"))),
                Cell(text.NOT_MEASURED if hits is None else f"{text.figure(hits[0])} of {text.figure(hits[1])}"),
                Cell("; ".join(float_layers) or "nothing"),
            )
        )
    columns = ("file", "size", "opset", "largest logit difference", "same label as torch", "stayed float")
    reading = "Each exported file compared with the torch model it came from, on the same images."
    return Table(columns, tuple(rows), reading)


def training(record: RunRecord) -> Table:
    rows = []
    for stage, log in record.training.items():
        if not isinstance(log, Mapping):
            continue
        spent = log.get("seconds")
        parts = {k: v for k, v in spent.items() if isinstance(v, int | float)} if isinstance(spent, Mapping) else {}
        shares = ", ".join(f"{text.clean(name)} {text.seconds(value)}" for name, value in parts.items())
        resumed = log.get("resumed_at")
        rows.append(
            (
                Cell(text.clean(stage)),
                Cell(text.figure(log.get("epochs"))),
                Cell(text.figure(log.get("steps"))),
                Cell(text.clean(log.get("seed", ""))),
                Cell(text.clean(log.get("device", ""))),
                Cell("no" if resumed is None else f"at epoch {text.figure(resumed)}"),
                Cell(shares or text.NOT_MEASURED),
            )
        )
    reading = "Every network trained in this run. Compare epochs and steps before you compare results."
    return Table(("network", "epochs", "steps", "seed", "device", "resumed", "time"), tuple(rows), reading)


def facts(value: Any, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """A nested value as (dotted name, text) pairs, in the order given."""
    return tuple(_facts(value, prefix))[:400]


def _facts(value: Any, prefix: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _facts(inner, f"{prefix}.{text.clean(key)}" if prefix else text.clean(key))
    elif isinstance(value, list | tuple):
        yield prefix, ", ".join(text.clean(v) for v in value) or "none"
    else:
        empty = value is None or value == "" or value == {}
        short = f"{value:.6g}" if isinstance(value, float) else value
        yield prefix, "none" if empty else text.clean(short)


def hashes(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """(what, SHA-256) of everything the run read and made."""
    found = {"bundle manifest": record.manifest_sha256}
    for name, about in (("teacher", record.teacher), ("student", record.student)):
        found[f"{name} file"] = str(about.get("sha256", ""))
    for part, about in record.data.items():
        if isinstance(about, Mapping):
            found[f"data, {part}"] = str(about.get("sha256", ""))
    for file in record.onnx:
        found[str(file.get("path", "ONNX"))] = str(file.get("sha256", ""))
    for row in record.rows:
        found.setdefault(f"row {row.stage}", row.sha256)
    return tuple((text.clean(name), text.clean(value)) for name, value in found.items() if value)


def untested(record: RunRecord) -> str:
    return (
        "; ".join(text.clean(gap) for gap in record.not_tested) + "." if record.not_tested else "nothing was left out."
    )


def about(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """The line under the verdict: which run this is."""
    teacher = record.teacher.get("file") or record.teacher.get("path") or record.teacher.get("name") or ""
    found = {
        "run": record.name,
        "teacher": teacher,
        "target": record.target,
        "made": record.created_utc,
        "edgekd": record.edgekd_version,
        "commit": record.commit,
        "command": record.command,
        "bundle manifest": record.manifest_sha256[:16],
    }
    return tuple((name, text.clean(value)) for name, value in found.items() if value)


def notes(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """(stages, note): what is said of several rows is said once."""
    said: dict[str, list[str]] = {}
    for row in record.rows:
        for note in row.notes:
            said.setdefault(text.clean(note), []).append(text.clean(row.stage))
    return tuple((", ".join(dict.fromkeys(stages)), note) for note, stages in said.items())


def origins(record: RunRecord) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Everything the figures depend on, as titled lists of (name, value)."""
    device_report = record.device_report or {}
    titled: tuple[tuple[str, Any], ...] = (
        ("Teacher", record.teacher),
        ("Student", record.student),
        ("Data", record.data),
        ("Configuration", record.config),
        ("Device run", device.facts(device_report)),
        ("Device", device_report.get("environment") or {}),
        ("Host", record.environment),
    )
    return tuple((title, facts(value)) for title, value in titled if value)
