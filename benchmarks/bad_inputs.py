"""Bad inputs through the real command line: what a user gets for a file or setting that is not valid.

    python benchmarks/bad_inputs.py

The rows are the contract tables of tests/: checkpoints and graphs, data, triggers, configurations, bundles, single
bits of any file of a bundle whose manifest's SHA-256 is known (`check --manifest-sha256`), and engines. Each is given
to a command as a user would give it, in this process. Met means: the expected exit code, one line that says the cause,
no traceback, no control character, nothing written. An engine that must not be loaded is built again (exit 0, one
sentence why; TensorRT and CUDA are the tests' fakes). There is one record per area.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.grid import Config, Table, main
from edgekd import files
from edgekd_device.runtime.base import BUILDING

TESTS = Path(__file__).resolve().parents[1] / "tests"
AREAS = ("checkpoint", "data", "trigger", "config", "bundle", "flipped bit", "engine")
QUOTED = 300
# Made by a command that is refused, empty of meaning: the lock of a folder that was there before, a device's key.
HARMLESS = {".lock", "engines", "key"}

Run = Callable[[list[str]], int]


@dataclass(frozen=True)
class Case:
    """``make(folder)`` writes the bad input and returns the command line; ``run`` is the command's entry.

    With exit code 0 what is spoilt is made anew in ``engines``, and the line that says why is among the answer.
    """

    name: str
    make: Callable[[Path], list[str]]
    exit_code: int
    word: str
    run: Run


def edgekd(words: list[str]) -> int:
    from edgekd.cli import run

    return run(words)


def device(words: list[str]) -> int:
    from edgekd_device.__main__ import main

    return main(words)


def cells() -> Iterator[Config]:
    for area in AREAS:
        yield {"area": area}


def run(config: Config, folder: Path) -> dict[str, Any]:
    for part in ("contract", "device"):
        if str(TESTS / part) not in sys.path:
            sys.path.append(str(TESTS / part))
    found = [judged(case) for case in CASES[config["area"]](folder)]
    return {"cases": len(found), "met": sum(row["met"] for row in found), "rows": found}


def judged(case: Case) -> dict[str, Any]:
    """Run one case in a folder of its own and say how it ended."""
    place = Path(tempfile.mkdtemp(prefix="edgekd-bad-"))
    try:
        words = case.make(place)
        before = listed(place)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("error")
            code = case.run(words)
        said = "".join(line for line in err.getvalue().splitlines(True) if not line.startswith(BUILDING))
        new = [path for path in listed(place) - before if path.name not in HARMLESS]
        written = sorted(str(path) for path in new if case.exit_code or path.parts[0] != "engines")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    answer, silent = (said, out.getvalue()) if case.exit_code else (out.getvalue(), said)
    lines = [line for line in answer.splitlines() if case.word in line]
    row = {
        "case": case.name,
        "expected": case.exit_code,
        "met_code": code,
        "message": (answer if case.exit_code else "".join(lines))
        .replace(f"{place}/", "")
        .replace(str(place), "folder")
        .strip()[:QUOTED],
        "says_cause": bool(lines),
        "one_line": (answer.count("\n") if case.exit_code else len(lines)) == 1 and not silent,
        "traceback": "Traceback" in answer + silent,
        "control_characters": not "".join(answer.splitlines()).isprintable(),
        "written": written,
    }
    met = code == case.exit_code and row["says_cause"] and row["one_line"] and not written
    return {**row, "met": met and not row["traceback"] and not row["control_characters"]}


def listed(folder: Path) -> set[Path]:
    """Everything below a folder."""
    return {path.relative_to(folder) for path in folder.rglob("*")}


# ---- areas -----------------------------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> Iterator[Case]:
    from bad_checkpoints import ROWS
    from bad_graphs import GRAPHS

    data = good_data(folder)
    for row in (*ROWS, *GRAPHS):

        def make(place: Path, row: Any = row) -> list[str]:
            (place / "in").mkdir()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, of old kinds of tensors
                bad = row.make(place / "in", place / "canary")
            return ["compress", str(bad), "--data", str(data), "--out", str(place / "run")]

        yield Case(row.name, make, row.exit_code, row.word, edgekd)


def data_sets(folder: Path) -> Iterator[Case]:
    from bad_data import BAD_DATA

    good = good_data(folder)
    for row in BAD_DATA:

        def make(place: Path, row: Any = row) -> list[str]:
            bad, words = str(row.make(place)), ["compress", "teacher.pt", "--out", str(place / "run")]
            # a bad test set stands beside a good training set
            words += ["--data", str(good), "--test", bad] if row.options.get("part") == "test" else ["--data", bad]
            if "class_map" in row.options:
                (place / "map.yaml").write_text("".join(f"{k}: {v}\n" for k, v in row.options["class_map"].items()))
                words += ["--class-map", str(place / "map.yaml")]
            return words

        # the reader's own words for a class map are for callers in Python
        word = "`class: label` lines" if row.options.get("class_map") == {0: -1} else row.word
        yield Case(row.name, make, row.exit_code, word, edgekd)


def triggers(folder: Path) -> Iterator[Case]:
    from bad_triggers import BAD_TRIGGERS

    teacher, data = good_teacher(folder), good_data(folder)
    names = {"rule": "--trigger-rule", "opacity": "--trigger-opacity"}
    for row in BAD_TRIGGERS:

        def make(place: Path, row: Any = row) -> list[str]:
            options = {"target_label": 1, **row.options}
            words = [
                "audit",
                str(teacher),
                "--data",
                str(data),
                "--normalize",
                "none",
                "--trigger",
                str(row.make(place)),
            ]
            for name, value in options.items():
                if name == "position":
                    words += ["--trigger-position", value if isinstance(value, str) else ",".join(map(str, value))]
                elif name == "source_labels":
                    words += [word for label in value for word in ("--source-label", str(label))]
                elif value is not None:
                    words += [names.get(name, "--" + name.replace("_", "-")), str(value)]
            return words

        yield Case(row.name, make, row.exit_code, row.word, edgekd)


def configs(folder: Path) -> Iterator[Case]:
    from bad_configs import ROWS, inputs

    for row in ROWS:

        def make(place: Path, row: Any = row) -> list[str]:
            return [*inputs(place), *row.make(place)]

        yield Case(row.name, make, row.exit_code, row.word, edgekd)


def bundles(folder: Path) -> Iterator[Case]:
    from bad_bundles import BAD
    from bundles import write_bundle

    for (name, (spoil, code, word)), (command, entry) in itertools.product(
        BAD.items(), (("check", device), ("bench", edgekd))
    ):

        def make(place: Path, spoil: Any = spoil, command: str = command) -> list[str]:
            bundle = write_bundle(place)
            spoil(bundle)
            return [command, str(bundle)]

        yield Case(f"{name} ({'edgekd-device' if command == 'check' else 'edgekd'} {command})", make, code, word, entry)


def flipped_bits(folder: Path) -> Iterator[Case]:
    from bad_bundles import FLIPS, flip
    from bundles import write_bundle

    for name, (file, share, code, word) in FLIPS.items():

        def make(place: Path, file: str = file, share: float = share) -> list[str]:
            bundle = write_bundle(place)
            known = files.sha256_file(bundle / "manifest.json")
            flip(bundle, file, share)
            return ["check", str(bundle), "--manifest-sha256", known]

        yield Case(name, make, code, word, device)


def engines(folder: Path) -> Iterator[Case]:
    from bad_engines import BAD, forget_faults, write_engine_bundle
    from fake_tensorrt import installed
    from libraries import HERE, compiled

    with installed(compiled(HERE / "fake_cudart.c", folder / "libcudart.so.12")), mock.patch.dict(os.environ):
        for name, row in BAD.items():

            def make(place: Path, row: Any = row) -> list[str]:
                words = ["build", str(write_engine_bundle(place))]
                os.environ.update(EDGEKD_ENGINES=str(place / "engines"), EDGEKD_FAULT="")
                if not row.fresh:
                    with contextlib.redirect_stdout(io.StringIO()):
                        device(words)
                row.spoil(place / "engines")
                forget_faults()
                os.environ["EDGEKD_FAULT"] = row.fault
                return words

            yield Case(name, make, 4 if row.outcome == "refused" else 0, row.word, device)


CASES: dict[str, Callable[[Path], Iterator[Case]]] = {
    "checkpoint": checkpoints,
    "data": data_sets,
    "trigger": triggers,
    "config": configs,
    "bundle": bundles,
    "flipped bit": flipped_bits,
    "engine": engines,
}


# ---- what is good ----------------------------------------------------------------------------------------------------


def good_data(folder: Path) -> Path:
    """200 images 3 x 8 x 8 of ten plain colours."""
    path = folder / "good.npz"
    if not path.exists():
        random = np.random.default_rng(0)
        labels = np.arange(200) % 10
        colours = random.integers(20, 236, (10, 1, 1, 3))
        images = np.clip(colours[labels] + random.integers(-9, 10, (200, 8, 8, 3)), 0, 255).astype(np.uint8)
        files.write_npz(path, images=images, labels=labels)
    return path


def good_teacher(folder: Path) -> Path:
    """A network that knows the ten colours."""
    from edgekd import checkpoints, data, distill, models
    from edgekd.training import TrainConfig
    from edgekd.types import InputSpec, ModelSpec

    path = folder / "good.safetensors"
    if not path.exists():
        spec = ModelSpec("resnet8-w4", 10, InputSpec(3, 8, 8, (0.0,) * 3, (1.0,) * 3))
        train = TrainConfig(epochs=12, batch_size=20, schedule="onecycle", lr=0.2, augment="none", precision="fp32")
        model, _ = distill.run(None, spec, data.load(good_data(folder)), "scratch", {}, train)
        checkpoints.save(path, models.weights(model), {})
    return path


def forecast(config: Config) -> float:
    return 2.0 if config["area"] == "checkpoint" else 0.2


if __name__ == "__main__":
    sys.exit(main(Table("bad_inputs", cells, run, forecast)))
