"""Render the committed records into the Markdown files that quote them, and into the pictures these show.

    python benchmarks/render.py            put every table and picture in place
    python benchmarks/render.py --check    exit 1 if a file does not say what the records say

A table lies between the lines ``<!-- table:NAME -->`` and ``<!-- /table:NAME -->``. NAME is a key of RENDERERS, or
else a folder of results/, which is then shown with one line per record. A picture holds the digest of what it draws.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    attacks_table,
    baselines_table,
    datafree_table,
    engines_table,
    int8_table,
    inversion_table,
    kdiga_table,
    loadgen_table,
    main_job_table,
    nasty_table,
    nvidia,
    paper_baselines_table,
    paper_scale_table,
    robustkd_figure,
    robustkd_table,
    robustness_table,
    transfer_table,
    vaccine_table,
)
from edgekd import files
from edgekd.errors import EnvironmentFault, UsageError
from edgekd.report import text

ROOT = Path(__file__).resolve().parents[1]
FILES = ("README.md", "benchmarks/README.md", "benchmarks/pages/*.md")
MOST_COLUMNS = 12
Record = dict[str, Any]


def columns(**chosen: str) -> Callable[[Sequence[Record]], str]:
    """A renderer of one line per record: heading (spaces for underscores) = dotted key of the config or the result."""

    def render(found: Sequence[Record]) -> str:
        rows = [{**dict(scalars(record["config"])), **dict(scalars(record["result"]))} for record in found]
        lines = [line([heading.replace("_", " ") for heading in chosen]), "|" + " --- |" * len(chosen)]
        lines += [line([_shown(row.get(key)) for key in chosen.values()]) for row in rows]
        return "\n".join([*lines, "", main_job_table.provenance(found)])

    return render


# block name -> (folder of results/, records to Markdown)
RENDERERS: dict[str, tuple[str, Callable[[Sequence[Record]], str]]] = {
    "main_job": ("main_job", main_job_table.tables),
    "main_job_summary": ("main_job", main_job_table.summary),
    "large_images": ("large_images", main_job_table.tables),
    "bad_inputs": ("bad_inputs", robustness_table.bad_inputs),
    "kills": ("kills", robustness_table.kills),
    "fast_run": (
        "fast_run",
        columns(
            teacher="teacher",
            student="student",
            minutes="minutes",
            within_bar="within_bar",
            s_scratch="stages.train-scratch",
            s_robustkd="stages.train-robustkd",
            s_bench="stages.bench",
            ACC="acc",
        ),
    ),
    "attacks": ("attacks", attacks_table.tables),
    "inversion": ("inversion", inversion_table.table),
    "transfer": ("transfer", transfer_table.tables),
    "transfer_overview": ("transfer", transfer_table.overview),
    "paper_scale": ("paper_scale", paper_scale_table.tables),
    "paper_scale_transfer": ("paper_scale_transfer", transfer_table.tables),
    "paper_scale_datafree": ("paper_scale_datafree", paper_scale_table.without_data),
    "robustkd": ("robustkd", robustkd_table.tables),
    "robustkd_summary": ("robustkd", robustkd_table.summary),
    "kdiga": ("kdiga", kdiga_table.tables),
    "kdiga_summary": ("kdiga", kdiga_table.summary),
    "baselines": ("baselines", baselines_table.tables),
    "paper_baselines": ("paper_baselines", paper_baselines_table.tables),
    "nasty": ("nasty", nasty_table.tables),
    "datafree": ("datafree", datafree_table.tables),
    "vaccine": ("vaccine", vaccine_table.tables),
    "nvidia": ("nvidia", nvidia.tables),
    "demo": (
        "demo",
        columns(
            seconds="seconds",
            teacher_ACC="teacher_acc",
            teacher_ASR="teacher_asr",
            KD_ACC="kd_acc",
            KD_ASR="kd_asr",
            overhaul_ACC="overhaul_acc",
            overhaul_ASR="overhaul_asr",
            INT8_ACC="int8_acc",
            INT8_ASR="int8_asr",
            floor="floor",
            bars_met="met",
        ),
    ),
    "int8_speed": (
        "int8_speed",
        columns(
            network="arch",
            ms_FP32="p50_ms.fp32",
            ms_INT8="p50_ms.ours",
            ms_onnxruntime_per_channel="p50_ms.onnxruntime per channel",
            ms_onnxruntime_per_tensor="p50_ms.onnxruntime per tensor",
            times_as_fast="speed_up",
            ours_over_the_faster="ours_over_onnxruntime",
            SQNR_dB_ours="sqnr_db.ours",
            SQNR_dB_per_channel="sqnr_db.onnxruntime per channel",
            SQNR_dB_per_tensor="sqnr_db.onnxruntime per tensor",
            both_bars_met="passed",
        ),
    ),
    "feature_schedule": (
        "feature_schedule",
        columns(
            student="row",
            teacher="teacher",
            images="images",
            epochs="epochs",
            batch="batch_size",
            rate="lr",
            seed="seed",
            ACC_held_out="acc",
            teacher_held_out="teacher_acc",
            teacher_on_its_own="teacher_acc_train",
        ),
    ),
    "loop_time": (
        "loop_time",
        columns(
            method="method",
            threads="threads",
            ms_per_step="ms_per_step",
            images_per_second="images_per_second",
            own_share="overhead",
        ),
    ),
    "harness_overhead": (
        "harness_overhead",
        columns(
            network="arch",
            us_bare="p50_us.bare",
            us_harness="p50_us.harness",
            overhead_us="overhead_us",
            allowed_us="allowed_us",
            met="passed",
        ),
    ),
    "platforms": (
        "platforms",
        columns(
            machine="machine",
            Python="python",
            images="images",
            labels_differ_FP32="files.model.onnx.labels_differ",
            labels_differ_INT8="files.model.u8s8.onnx.labels_differ",
            largest_difference_FP32="files.model.onnx.largest_difference",
            largest_difference_INT8="files.model.u8s8.onnx.largest_difference",
            met="passed",
        ),
    ),
    "images": (
        "images",
        columns(
            file="file",
            machine="machine",
            Python="python",
            MB="image_mb",
            user="user",
            build_s="build_seconds",
            met="passed",
        ),
    ),
    "int8": ("int8", int8_table.tables),
    "engines": ("engines", engines_table.tables),
    "loadgen": ("loadgen", loadgen_table.tables),
}

# picture -> (folder of results/, module with digest and svg)
PICTURES = {"docs/defences.svg": ("robustkd", robustkd_figure)}

_BLOCK = re.compile(r"^<!-- table:(?P<name>[\w-]+) -->\n.*?^<!-- /table:(?P=name) -->$", re.S | re.M)
_MARKER = re.compile(r"^<!-- /?table:([\w-]+) -->$", re.M)


def records(folder: Path) -> list[Record]:
    """Every record of one table, in the order of their configs. Raises UsageError for a file that is none."""
    found = []
    for path in folder.glob("*.json"):
        record = files.read_json(path)
        if not isinstance(record, dict) or not {"config", "result", "commit"} <= set(record):
            raise UsageError(f"{path} is not a record of the grid: it lacks config, result or commit.")
        found.append(record)
    return sorted(found, key=lambda record: files.canonical_json(record["config"]))


def table(name: str, root: Path = ROOT) -> str:
    """The Markdown of one block."""
    folder, render = RENDERERS.get(name, (name, plain))
    found = records(root / "benchmarks" / "results" / folder)
    return (render(found) if found else "_No record yet._") + "\n"


def plain(found: Sequence[Record]) -> str:
    """One line per record: what differs between the configs, then every single figure of the result."""
    rows = [{**dict(scalars(r["config"])), **dict(scalars(r["result"])), "seconds": r["seconds"]} for r in found]
    configs = [dict(scalars(record["config"])) for record in found]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    same = {key for key in columns if all(key in c for c in configs) and len({str(c[key]) for c in configs}) == 1}
    columns = [key for key in columns if key not in same or len(found) == 1][:MOST_COLUMNS]
    lines = [line(columns), "|" + " --- |" * len(columns)]
    lines += [line([_shown(row.get(key)) for key in columns]) for row in rows]
    return "\n".join([*lines, "", main_job_table.provenance(found)])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else text.figure(value)


def scalars(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of the numbers, words and truths in a nested value; lists are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from scalars(inner, f"{prefix}.{key}" if prefix else str(key))
    elif not isinstance(value, list):
        yield prefix or "result", value


def line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(text.markdown(cell) for cell in cells) + " |"


def rendered(page: str, root: Path = ROOT) -> str:
    """The page with every block made anew. Raises UsageError for a marker without its other half."""
    whole = {match.group("name") for match in _BLOCK.finditer(page)}
    lonely = sorted(set(_MARKER.findall(page)) - whole)
    if lonely:
        raise UsageError(f"The marker of table {lonely[0]!r} lacks its other half, or they stand in the wrong order.")

    def fill(match: re.Match[str]) -> str:
        name = match.group("name")
        return f"<!-- table:{name} -->\n{table(name, root)}<!-- /table:{name} -->"

    return _BLOCK.sub(fill, page)


def pictures(root: Path, check: bool) -> list[Path]:
    """Those that do not show what the records say; drawn anew unless ``check``. Without records there is no picture."""
    stale = []
    for name, (folder, module) in PICTURES.items():
        found, path = records(root / "benchmarks" / "results" / folder), root / name
        if not found or (path.exists() and module.digest(found) in path.read_text("utf-8")):
            continue
        stale.append(Path(name))
        if not check:
            files.write_text(path, module.svg(found))
    return stale


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write, or with --check only compare; 1 if a file was stale under --check."""
    parser = argparse.ArgumentParser(description="Render benchmark records into the Markdown files that quote them.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    stale = []
    try:
        for path in sorted(path for name in FILES for path in chosen.root.glob(name)):
            page = path.read_text("utf-8")
            made = rendered(page, chosen.root)
            if made != page:
                stale.append(path.relative_to(chosen.root))
                if not chosen.check:
                    files.write_text(path, made)
        stale += pictures(chosen.root, chosen.check)
    except (UsageError, EnvironmentFault) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for path in stale:
        print(f"{path} {'is stale: run python benchmarks/render.py' if chosen.check else 'was brought up to date'}")
    return 1 if stale and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
