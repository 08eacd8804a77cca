"""Engines that must not be loaded, and places where none can be kept.

name -> Row: what spoils the folder after a build, how the next build ends, words that it says. "rebuilt": exit 0, one
sentence why, and the build after that finds it whole; "used": exit 0, the engine is taken as it is; "refused": exit 4,
one line, nothing half-written.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import trt_models
from bundles import TARGET, write_bundle

from edgekd_device import files
from edgekd_device.runtime import engines
from edgekd_device.runtime.base import BUILDING
from edgekd_device.runtime.engines import Store

JETSON = dataclasses.replace(TARGET, runtime="tensorrt", ships="model.qdq.onnx", files=("model.qdq.onnx",))
CUT, SEAL, READ = "writing it was cut short", "its seal does not hold", "it cannot be read"


@dataclass(frozen=True)
class Row:
    spoil: Callable[[Path], Any]
    outcome: str  # rebuilt | used | refused
    word: str
    fault: str = ""  # EDGEKD_FAULT during the build
    fresh: bool = False  # nothing was built before


def plan(folder: Path) -> Path:
    return next(folder.glob("*.plan"))


def seal(folder: Path) -> Path:
    return next(folder.glob("*.plan.json"))


def change(pick: Callable[[Path], Path], edit: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda folder: pick(folder).write_bytes(edit(pick(folder).read_bytes()))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def resealed(**fields: Any) -> Callable[[Path], Any]:
    """Sealed with this device's own key, for something else: what an update of TensorRT leaves."""

    def spoil(folder: Path) -> None:
        store = Store(folder)
        kept = store.load(plan(folder).name, {})
        store.save(plan(folder).name, {**kept.fields, **fields}, kept.data or b"")

    return spoil


def _elsewhere(folder: Path) -> None:
    """A whole engine, sealed by another device."""
    kept = Store(folder).load(plan(folder).name, {})
    other = Store(folder.parent / "other")
    other.save(plan(folder).name, kept.fields, kept.data or b"")
    for name in (plan(folder).name, seal(folder).name):
        shutil.copy(other.path / name, folder / name)


def _moved_in(folder: Path) -> None:
    """The whole folder of another device, with the key that sealed it."""
    kept = Store(folder).load(plan(folder).name, {})
    with mock.patch.object(engines, "identity", return_value=b"another machine"):
        Store(folder).save(plan(folder).name, kept.fields, kept.data or b"")


def _another_file(folder: Path) -> None:
    """The engine of one model under the name of another, with its own whole seal."""
    store, name = Store(folder), plan(folder).name
    kept = store.load(name, {})
    store.save("0" * 32 + ".plan", {**kept.fields, "onnx_sha256": "0" * 64}, kept.data or b"")
    os.replace(folder / ("0" * 32 + ".plan"), folder / name)
    os.replace(folder / ("0" * 32 + ".plan.json"), folder / (name + ".json"))


def _linked(folder: Path) -> None:
    os.replace(plan(folder), folder.parent / "elsewhere.plan")
    (folder / seal(folder).name[: -len(".json")]).symlink_to(folder.parent / "elsewhere.plan")


def _pipe(folder: Path, pick: Callable[[Path], Path] = plan) -> None:
    name = pick(folder)
    name.unlink()
    os.mkfifo(name)


def _link_to_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder.parent / "other").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "other")


def _file_in_the_way(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("")


def _leftover(folder: Path) -> None:
    left = folder / ("." + plan(folder).name + ".x.part")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))


def nothing(folder: Path) -> None:
    """Left as it is."""


BAD: dict[str, Row] = {
    "untouched": Row(nothing, "used", "kept from before"),
    "leftover of a killed write": Row(_leftover, "used", "kept from before"),
    "seal beside what is no JSON number": Row(change(seal, lambda data: b'{"seal": "", "a": NaN}'), "rebuilt", CUT),
    "seal of half a character": Row(change(seal, lambda data: b'{"seal": "\\ud800"}'), "rebuilt", CUT),
    "seal nested without end": Row(change(seal, lambda data: b'{"a":' + b"[" * 100_000), "rebuilt", CUT),
    "engine cut short": Row(change(plan, lambda data: data[:-1]), "rebuilt", SEAL),
    "engine empty": Row(change(plan, lambda data: b""), "rebuilt", SEAL),
    "engine half-written": Row(change(plan, lambda data: data[: len(data) // 2]), "rebuilt", SEAL),
    "engine with more behind it": Row(change(plan, lambda data: data + b"\0"), "rebuilt", SEAL),
    "one bit of the engine": Row(change(plan, flipped), "rebuilt", SEAL),
    "engine of zeros": Row(change(plan, lambda data: bytes(len(data))), "rebuilt", SEAL),
    "engine gone": Row(lambda folder: plan(folder).unlink(), "rebuilt", "built in"),
    "engine is a link": Row(_linked, "rebuilt", READ),
    "engine is a pipe": Row(_pipe, "rebuilt", READ),
    "engine that others may write": Row(lambda folder: plan(folder).chmod(0o666), "rebuilt", READ),
    "seal gone": Row(lambda folder: seal(folder).unlink(), "rebuilt", CUT),
    "seal cut short": Row(change(seal, lambda data: data[:-5]), "rebuilt", CUT),
    "seal empty": Row(change(seal, lambda data: b""), "rebuilt", CUT),
    "seal is a pipe": Row(lambda folder: _pipe(folder, seal), "rebuilt", CUT),
    "seal is no object": Row(change(seal, lambda data: b"[1]"), "rebuilt", CUT),
    "seal without its mark": Row(change(seal, lambda data: data.replace(b'"seal"', b'"sea"')), "rebuilt", CUT),
    "mark is a number": Row(change(seal, lambda data: b'{"seal": 1}'), "rebuilt", SEAL),
    "mark is not ASCII": Row(change(seal, lambda data: '{"seal": "é"}'.encode()), "rebuilt", SEAL),
    "another version written in": Row(change(seal, lambda data: data.replace(b"10.3.0", b"10.3.1")), "rebuilt", SEAL),
    "sealed by another device": Row(_elsewhere, "rebuilt", SEAL),
    "whole folder with its key from another device": Row(_moved_in, "rebuilt", SEAL),
    "key gone": Row(lambda folder: (folder / "key").unlink(), "rebuilt", SEAL),
    "key cut short": Row(lambda folder: os.truncate(folder / "key", 31), "rebuilt", SEAL),
    "key too long": Row(change(lambda folder: folder / "key", lambda data: data + b"\0"), "rebuilt", SEAL),
    "key that others may read": Row(lambda folder: (folder / "key").chmod(0o644), "rebuilt", SEAL),
    "other TensorRT": Row(resealed(tensorrt="10.16.1"), "rebuilt", "made for TensorRT 10.16.1, but here it is 10.3.0"),
    "other GPU": Row(resealed(gpu="Orin NX"), "rebuilt", "made for the GPU Orin NX, but here it is Fake Orin"),
    "other compute capability": Row(resealed(compute_capability="7.2"), "rebuilt", "made for compute capability 7.2"),
    "other multiprocessors": Row(resealed(processors=16), "rebuilt", "made for a number of multiprocessors of 16"),
    "other board": Row(resealed(board="Orin NX"), "rebuilt", "made for the board Orin NX, but here it is None"),
    "other CUDA": Row(resealed(cuda_driver="13.2"), "rebuilt", "made for CUDA 13.2, but here it is 12.6"),
    "other use": Row(resealed(kind="timings"), "rebuilt", "made for use as timings, but here it is engine"),
    "other flags": Row(resealed(flags=["FP16"]), "rebuilt", "made for flags ['FP16']"),
    "other typing": Row(resealed(typing="strong"), "rebuilt", "made for typing strong"),
    "other workspace": Row(resealed(workspace=1), "rebuilt", "made for workspace 1"),
    "engine of another file": Row(_another_file, "rebuilt", "made for the file 000"),
    "folder that others may enter": Row(lambda folder: folder.chmod(0o755), "refused", "chmod 700"),
    "folder is a link": Row(_link_to_folder, "refused", "is a link"),
    "a file in the way": Row(_file_in_the_way, "refused", "Cannot use"),
}
for _name in ("engine-key", "engine", "engine-seal"):
    for _point in ("before_write", "before_rename", "after_rename"):
        for _error in ("enospc", "eio"):
            BAD[f"{_error} at {_name}.{_point}"] = Row(
                nothing, "refused", "Could not write", f"{_name}.{_point}:1:{_error}", fresh=True
            )


def half_written(folder: Path) -> list[str]:
    """Files that belong to no whole engine: temporary ones, engines without a seal, seals without an engine."""
    if not folder.is_dir() or folder.is_symlink():
        return []
    names = {path.name for path in folder.iterdir()}
    alone = [n for n in names if n.endswith(".plan") and n + ".json" not in names]
    alone += [n for n in names if n.endswith(".plan.json") and n[: -len(".json")] not in names]
    return sorted(alone + [n for n in names if n.endswith(".part")])


def besides_builds(err: str) -> str:
    """What a command said on standard error besides that it builds."""
    return "".join(line for line in err.splitlines(True) if not line.startswith(BUILDING))


def forget_faults() -> None:
    """Let faults be counted anew."""
    files._reached.clear()


def write_engine_bundle(folder: Path) -> Path:
    """A bundle for TensorRT with one small model."""
    return write_bundle(folder, {"model.qdq.onnx": trt_models.model()}, target=JETSON, references={})
