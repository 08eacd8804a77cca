"""NVIDIA's own parser and builder on every student's TensorRT files, on a machine without a GPU.

    python tests/trt/fetch.py builder      NVIDIA's wheels, from the package index
    python -m benchmarks.nvidia            a record per student in results/nvidia/

TensorRT for RTX 1.7.1 behind the bindings of TensorRT 11.4, strongly typed, with our own build code and the recipe of
the smallest board. A file passes if it is parsed with a dynamic batch size, gives an engine, and causes no error or
warning.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.grid import Config, Table, main
from benchmarks.main_job_table import head, line, provenance
from edgekd.errors import EnvironmentFault
from edgekd.report import text

TRT = Path(__file__).resolve().parents[1] / "tests" / "trt"
FLAVOURS = ("fp32", "fp16", "s8", "s8-fp16")
COLUMNS = ("student", *(f"{flavour} MB" for flavour in FLAVOURS), "seconds", "said", "passed")


def cells() -> Iterator[Config]:
    for arch in _files().STUDENTS:
        yield {"arch": arch, "bindings": _files().VERSION, "builder": "TensorRT for RTX 1.7.1"}


def _files() -> Any:
    if str(TRT) not in sys.path:
        sys.path.append(str(TRT))
    import student_files

    return student_files


def run(config: Config, folder: Path) -> dict[str, Any]:
    files = _files()
    if absent := [name for name in (files.VERSION, "rtx") if not (files.bindings.fetch.FOLDER / name).is_dir()]:
        raise EnvironmentFault(f"NVIDIA's {absent[0]} is not here: python tests/trt/fetch.py builder brings it.")
    if shutil.which("gcc") is None:
        raise EnvironmentFault("Stub libraries are compiled for NVIDIA's bindings: install gcc.")
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        with files.exported(config["arch"], FLAVOURS, place) as written:
            found = files.built(list(written.values()), files.libraries(place / "libraries"), place / "alias")
            by_flavour = {flavour: found[file.name] for flavour, file in written.items()}
    result = {
        flavour: {"plan_bytes": one["plan_bytes"], "seconds": one.get("seconds"), "faults": files.faults(one)}
        for flavour, one in by_flavour.items()
    }
    return {"files": result, "passed": not any(one["faults"] for one in result.values())}


def tables(records: Sequence[dict[str, Any]]) -> str:
    """A line per student: size of each engine, seconds of all four, what was said."""
    lines = head(COLUMNS)
    for record in sorted(records, key=lambda one: str(one["config"]["arch"])):
        files = record["result"]["files"]
        said = [f"{flavour}: {fault}" for flavour, one in files.items() for fault in one["faults"]]
        sizes = [
            f"{files[flavour]['plan_bytes'] / 1e6:.2f}" for flavour in FLAVOURS
        ]  # records are sorted by their keys
        seconds = sum(one["seconds"] or 0.0 for one in files.values())
        passed = "yes" if record["result"]["passed"] else "**no**"
        lines.append(
            line(
                [
                    text.markdown(record["config"]["arch"]),
                    *sizes,
                    f"{seconds:.1f}",
                    text.markdown("; ".join(said) or "nothing"),
                    passed,
                ]
            )
        )
    return "\n".join([*lines, "", provenance(records)])


def forecast(config: Config) -> float:
    return 0.5


if __name__ == "__main__":
    sys.exit(main(Table("nvidia", cells, run, forecast)))
