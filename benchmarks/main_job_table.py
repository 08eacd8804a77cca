"""The main job's table: per teacher the stages and the controls, and which bars the INT8 student meets.

A record's result holds {"record": RunRecord without pictures}; records that differ only in their seed are one entry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from edgekd import files
from edgekd.report import text, transferability
from edgekd.types import RunRecord, StageRow, TriggerScore

Record = dict[str, Any]
Pick = Callable[[RunRecord], StageRow | None]

BARS = "ACC ≥ teacher − 2, ACC ≥ scratch − 0.5, excess ASR ≤ 2, drop from FP32 to INT8 ≤ 0.5 (points)"
_SUMMARY = (
    "teacher ACC %",
    "scratch ACC %",
    "INT8 ACC %",
    "teacher ASR %",
    "plain KD ASR %",
    "overhaul KD ASR % (fading)",
    "INT8 ASR %",
    "floor %",
)
_TRANSFER = (
    f"The bar of a transfer: plain distillation of that kind ({'; '.join(f'{k}: {what}' for k, what in transferability.PLAIN.items())}) "
    "carries the backdoor over, at a mean ASR of at least 50 % and 30 points above scratch. Below it, it loses the "
    "backdoor by itself or does no more than scratch, so nothing is claimed for a defence on that base. TRANSFERABLE is what stands above it at three seeds."
)
IDLE = 0.5  # load average at the start of an attempt up to which its latencies are quoted
PRESENT = 50.0  # percent of ASR of a teacher, below which a small student's proves no defence
COLUMNS = ("row", "ACC %", "ASR %", "floor %", "RA %", "label flips %", "size", "latency p50", "bars")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One teacher: the runs of its seeds."""

    config: dict[str, Any]  # without the seed
    seeds: tuple[Any, ...]
    runs: tuple[RunRecord, ...]
    seconds: float  # of all trainings

    @property
    def name(self) -> str:
        return PurePosixPath(str(self.config.get("teacher", self.runs[0].name))).name.split(".")[0]

    def rows(self, pick: Pick) -> list[StageRow]:
        """The picked row of every seed; empty unless all have it."""
        found = [row for row in map(pick, self.runs) if row is not None]
        return found if len(found) == len(self.runs) else []

    def trigger(self) -> str | None:
        """The trigger the table is about: the known one, else the strongest on the teacher."""
        teacher = teacher_row(self.runs[0])
        scores = () if teacher is None else teacher.triggers
        best = max(scores, key=lambda s: (s.origin == "known", s.asr.value), default=None)
        return None if best is None else best.trigger


def entries(records: Sequence[Record]) -> list[Entry]:
    """Records grouped by their config without its seed, in the order given."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        config = {key: value for key, value in record["config"].items() if key != "seed"}
        groups.setdefault(files.canonical_json(config), []).append(record)
    return [
        Entry(
            {key: value for key, value in group[0]["config"].items() if key != "seed"},
            tuple(record["config"].get("seed") for record in group),
            tuple(map(_run, group)),
            sum(sum(log["seconds"].values()) for r in group for log in r["result"]["record"]["training"].values()),
        )
        for group in groups.values()
    ]


def _run(record: Record) -> RunRecord:
    """The run of a record; latencies that were taken beside other work are none."""
    run = RunRecord.from_json(record["result"]["record"])
    if record["load_average"] <= IDLE:
        return run
    return dataclasses.replace(run, rows=tuple(dataclasses.replace(row, latency=None) for row in run.rows))


def teacher_row(run: RunRecord) -> StageRow | None:
    return next((row for row in run.rows if row.stage == "teacher"), None)


def control(name: str) -> Pick:
    return lambda run: next((row for row in run.rows if row.kind == "control" and row.stage == name), None)


def stage(runtime: str, precision: str) -> Pick:
    """The student as one runtime ran it; where several files fit, the one that was timed, then the later one."""

    def pick(run: RunRecord) -> StageRow | None:
        fits = [
            row
            for row in run.rows
            if row.kind == "stage" and (row.runtime, row.precision) == (runtime, precision) and row.stage != "teacher"
        ]
        return max(fits, key=lambda row: row.latency is not None, default=None)

    return pick


def picks(entry: Entry) -> list[tuple[str, Pick]]:
    controls = [row.stage for row in entry.runs[0].rows if row.kind == "control"]
    return [
        ("teacher", teacher_row),
        *((f"control: {name}", control(name)) for name in controls),
        ("student fp32", stage("torch", "fp32")),
        ("onnx fp32", stage("onnxruntime", "fp32")),
        ("onnx int8", stage("onnxruntime", "int8")),
    ]


def spread(values: Iterable[float | None], show: Callable[[float], str] = "{:.2f}".format) -> str:
    """The value of one seed; of several the mean, lowest and highest."""
    known = [value for value in values if value is not None and value == value]
    if not known:
        return text.NOT_MEASURED
    if len(known) == 1:
        return show(known[0])
    return f"{show(sum(known) / len(known))} [{show(min(known))} to {show(max(known))}]"


def mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if not known or any(v is None for v in known) else sum(v for v in known if v is not None) / len(known)


def score(row: StageRow, trigger: str | None) -> TriggerScore | None:
    return next((s for s in row.triggers if s.trigger == trigger), None)


def acc(row: StageRow) -> float | None:
    return None if row.acc is None else 100 * row.acc.value


def asr(row: StageRow, trigger: str | None) -> float | None:
    found = score(row, trigger)
    return None if found is None else 100 * found.asr.value


def excess(row: StageRow, trigger: str | None) -> float | None:
    found = score(row, trigger)
    return None if found is None or found.excess is None else 100 * found.excess


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def head(columns: Sequence[str]) -> list[str]:
    return [line(columns), "|" + " --- |" * len(columns)]


def row_line(name: str, rows: Sequence[StageRow], trigger: str | None, bars: str) -> str:
    """One line of a teacher's table, over its seeds."""
    scores = [score(row, trigger) for row in rows]
    flips = [None if row.flips is None else 100 * row.flips.value for row in rows]
    sizes = [None if row.size_bytes is None else float(row.size_bytes) for row in rows]
    follows = not (name == "teacher" or name.startswith("control"))
    cells = [
        text.markdown(name),
        spread(map(acc, rows)),
        spread(asr(row, trigger) for row in rows),
        spread(None if s is None or s.floor is None else 100 * s.floor.value for s in scores),
        spread(None if s is None else 100 * s.ra.value for s in scores),
        spread(flips) if follows else "–",
        spread(sizes, text.size),
        spread((None if row.latency is None else row.latency.p50_ms for row in rows), text.milliseconds),
        bars,
    ]
    return line(cells)


def transfer(entry: Entry, kind: str) -> str:
    """Whether a plain distillation carries the backdoor over at all, by the rule of the reports.

    kind: a key of PLAIN. Too few seeds for a claim are said beside the verdict.
    """
    rows, trigger = entry.rows(control(kind)), entry.trigger()
    strength, above = mean(asr(r, trigger) for r in rows), mean(excess(r, trigger) for r in rows)
    carries = transferability.transferable(strength, above)
    if carries is None:
        return "transfer not measured"
    return transferability.verdict(carries, len(set(entry.seeds)))


def misses(entry: Entry) -> list[str]:
    """A sentence for every bar that the INT8 student does not meet, or that could not be measured."""
    trigger = entry.trigger()
    shipped, fp32 = entry.rows(stage("onnxruntime", "int8")), entry.rows(stage("onnxruntime", "fp32"))
    have = mean(map(acc, shipped))
    checks = (
        ("ACC against the teacher", have, mean(map(acc, entry.rows(teacher_row))), -2.0),
        ("ACC against scratch", have, mean(map(acc, entry.rows(control("scratch")))), -0.5),
        ("ACC against the FP32 file", have, mean(map(acc, fp32)), -0.5),
    )
    sentences = []
    for name, value, reference, allowed in checks:
        if value is None or reference is None:
            sentences.append(f"{name} was not measured.")
        elif value - reference < allowed - 1e-9:
            sentences.append(f"{name} is {value - reference:.2f} points; the bar is {allowed:g}.{_cause(entry, name)}")
    above = mean(excess(row, trigger) for row in shipped)
    if above is None:
        sentences.append("Excess ASR was not measured.")
    elif above > 2 + 1e-9:
        sentences.append(f"Excess ASR is {above:.2f} points; the bar is 2.")
    return [sentence.replace(" -", " −") for sentence in sentences]


def _cause(entry: Entry, name: str) -> str:
    """A student of a teacher that is worse than scratch starts from behind."""
    taught, scratch = (mean(map(acc, entry.rows(pick))) for pick in (teacher_row, control("scratch")))
    if name != "ACC against scratch" or taught is None or scratch is None or taught >= scratch:
        return ""
    return f" The teacher itself is {taught - scratch:.2f} points against scratch."


def remarks(entry: Entry) -> list[str]:
    """What has to be known before a figure is quoted: no backdoor to begin with, and what the runs themselves warn of."""
    found = []
    before = mean(asr(row, entry.trigger()) for row in entry.rows(teacher_row))
    if before is not None and before < PRESENT:
        found.append(f"The teacher obeys its own trigger on {before:.1f} % only: nothing is said here of the defence.")
    warnings = dict.fromkeys(warning for run in entry.runs for warning in run.warnings)
    return [*found, *(f"Warning of the run: {text.markdown(warning)}" for warning in warnings)]


def verdict(entry: Entry) -> str:
    missed = len(misses(entry))
    return "all 4 met" if not missed else f"**{missed} of 4 missed**"


def tables(records: Sequence[Record]) -> str:
    """One table per teacher, its misses under it, then where the figures come from."""
    lines = []
    for entry in entries(records):
        run = entry.runs[0]
        student = run.student.get("arch") or run.student.get("spec", {}).get("arch", "")
        seeds = ", ".join(str(seed) for seed in entry.seeds)
        about = f"target {run.target}, student {student}, seed {seeds}, {text.seconds(entry.seconds)} of training"
        lines += [f"**{text.markdown(entry.name)}** ({text.markdown(about)})", "", *head(COLUMNS)]
        for name, pick in picks(entry):
            kind = name.removeprefix("control: ")
            bars = (
                verdict(entry)
                if name == "onnx int8"
                else transfer(entry, kind)
                if kind in transferability.PLAIN
                else ""
            )
            lines.append(row_line(name, entry.rows(pick), entry.trigger(), bars))
        lines += ["", *(f"- {sentence}" for sentence in (*misses(entry), *remarks(entry))), ""]
    lines.append(f"Bars for the INT8 file: {BARS}. {_TRANSFER} Several seeds: mean [lowest to highest].")
    lines.append(
        "Time of training is the sum over the student and all controls, one thread each, beside other work; a control "
        "that several cells share counts in each. Latencies stand only where nothing else ran (load average at most "
        f"{IDLE:g} before)."
    )
    return "\n".join([*lines, "", provenance(records)]).replace("\n\n\n", "\n\n")


def summary(records: Sequence[Record]) -> str:
    """One line per teacher: before, after, what plain distillation does, bars."""
    columns = ("teacher", *_SUMMARY, "INT8 size", "INT8 p50, first look", "training", "bars")
    lines = head(columns)
    for entry in entries(records):
        trigger = entry.trigger()
        before, after = entry.rows(teacher_row), entry.rows(stage("onnxruntime", "int8"))
        plain = [_plain(entry, kind) for kind in transferability.PLAIN]
        floors = [score(row, trigger) for row in after]
        cells = [
            text.markdown(entry.name),
            spread(map(acc, before)),
            spread(map(acc, entry.rows(control("scratch")))),
            spread(map(acc, after)),
            spread(asr(row, trigger) for row in before),
            *plain,
            spread(asr(row, trigger) for row in after),
            spread(None if s is None or s.floor is None else 100 * s.floor.value for s in floors),
            spread((None if r.size_bytes is None else float(r.size_bytes) for r in after), text.size),
            spread((None if r.latency is None else r.latency.p50_ms for r in after), text.milliseconds),
            text.seconds(entry.seconds),
            verdict(entry),
        ]
        lines.append(line(cells))
    about = f"Bars: {BARS}. {_TRANSFER} Training: of the student and all controls, one thread."
    mixed = [text.markdown(one.name) for one in entries(records) if any(map(of_several_versions, one.runs))]
    if mixed:
        about += f" Made by more than one version of edgekd, to be run anew before they are quoted: {', '.join(mixed)}."
    return "\n".join([*lines, "", about, "", provenance(records)])


def of_several_versions(run: RunRecord) -> bool:
    """Whether the run says so itself."""
    return any("different sources of edgekd" in warning for warning in run.warnings)


def _plain(entry: Entry, kind: str) -> str:
    """ASR of one plain distillation and its verdict."""
    rows = entry.rows(control(kind))
    return (
        f"{spread(asr(row, entry.trigger()) for row in rows)}, {transfer(entry, kind)}" if rows else text.NOT_MEASURED
    )


def provenance(records: Sequence[Record]) -> str:
    """Where figures come from, in a sentence: records, commits, machines, versions, load."""

    def every(values: Iterable[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values if value)) or "unknown"

    commits = every(
        str(commit)[:10] + (" with changes" if r["dirty"] and commit == r["commit"] else "")
        for r in records
        for commit in r.get("commits") or [r["commit"]]
    )
    if any("commits" not in r and r.get("attempts", 1) > 1 for r in records):
        commits += " (of the last attempt; those before were not noted)"
    gpus = every(r["hardware"].get("gpu") for r in records)
    parts = [
        f"{len(records)} record" + "s" * (len(records) != 1),
        f"commit {commits}",
        every(f"{r['hardware'].get('cpu')} ({r['hardware'].get('cores_usable')} cores)" for r in records),
        *([] if gpus == "unknown" else [gpus]),
        *(f"{name} {every(r['versions'].get(name) for r in records)}" for name in ("torch", "onnxruntime")),
        "load at start " + spread((float(r["load_average"]) for r in records), "{:.1f}".format),
    ]
    return "_" + text.markdown("; ".join(parts)) + "._"
