"""Bad bundles: name -> what spoils a good one, the exit code that it must end with, words of the message."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
from bundles import edit, replace_file


def _set(name, value):
    return lambda folder: edit(folder, lambda manifest: manifest.__setitem__(name, value))


def _first_file(**changes):
    return lambda folder: edit(folder, lambda manifest: manifest["files"][0].update(changes))


def _probes(**changes):
    """Replace arrays of probe.npz (None takes one out) and list the new file."""

    def change(folder: Path) -> None:
        with np.load(folder / "probe.npz") as archive:
            arrays = {**archive, **changes}
        stream = io.BytesIO()
        np.savez(stream, **{name: array for name, array in arrays.items() if array is not None})
        replace_file(folder, "probe.npz", stream.getvalue())

    return change


def _link(folder: Path) -> None:
    os.rename(folder / "model.onnx", folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def _link_to_folder(folder: Path) -> None:
    (folder.parent / "other").mkdir()
    (folder / "engines").symlink_to(folder.parent / "other")


def flip(folder: Path, name: str = "model.onnx", share: float = 0.5) -> None:
    """Turn one bit of a file over, at ``share`` of its length: 0 is its first byte, 1 its last."""
    data = bytearray((folder / name).read_bytes())
    data[round(share * (len(data) - 1))] ^= 1
    (folder / name).write_bytes(data)


def _list_twice(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["files"].append(dict(manifest["files"][0])))


def _list_other_case(folder: Path) -> None:
    shutil.copy(folder / "model.onnx", folder / "MODEL.onnx")
    entry = next(e for e in json.loads((folder / "manifest.json").read_text())["files"] if e["name"] == "model.onnx")
    edit(folder, lambda manifest: manifest["files"].append({**entry, "name": "MODEL.onnx"}))


def _text(text):
    return lambda folder: (folder / "manifest.json").write_text(text)


def _doubled_key(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("{", '{"target": "other",', 1))


def _garbage_probes(folder: Path) -> None:
    replace_file(folder, "probe.npz", b"not an archive")


def _pickled_probes(folder: Path) -> None:
    _probes(labels=np.array([print] * 30, dtype=object))(folder)


def _compressed_lie(folder: Path) -> None:
    """A member that is no array at all."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("images", "labels", "trigger0_images", "trigger0_index", "trigger0_attacker"):
            archive.writestr(name + ".npy", b"\x93NUMPY\x01\x00")
    replace_file(folder, "probe.npz", stream.getvalue())


def _packed_probes(folder: Path) -> None:
    """The same probes with a thousand times more zeros than the file has bytes."""
    with np.load(folder / "probe.npz") as kept:
        found = dict(kept)
    stream = io.BytesIO()
    np.savez_compressed(stream, **{**found, "images": np.zeros((50_000, *found["images"].shape[1:]), np.uint8)})
    replace_file(folder, "probe.npz", stream.getvalue())


def _foreign_reference(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["references"].update({"x.onnx": manifest["references"]["model.onnx"]}))


def _reference(**changes):
    return lambda folder: edit(folder, lambda manifest: manifest["references"]["model.onnx"].update(changes))


def _infinite(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"num_classes": 3', '"num_classes": 1e999'))


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _without(name):
    return lambda folder: edit(folder, lambda manifest: manifest.pop(name))


def _unlist(name):
    def change(folder: Path) -> None:
        (folder / name).unlink()
        edit(folder, lambda m: m.update(files=[e for e in m["files"] if e["name"] != name]))

    return change


DEEP = "[" * 100_000 + "]" * 100_000
BAD = {
    "probes that unpack to more than the file": (_packed_probes, 2, "are allowed"),
    "no manifest": (_remove("manifest.json"), 2, "holds no manifest.json"),
    "model missing": (_remove("model.onnx"), 2, "lacks model.onnx"),
    "probes missing": (_remove("probe.npz"), 2, "lacks probe.npz"),
    "extra file": (lambda f: (f / "libcuda.so").write_bytes(b"x"), 2, "'libcuda.so'"),
    "hidden extra file": (lambda f: (f / ".pth").write_bytes(b"x"), 2, "'.pth'"),
    "extra folder": (lambda f: (f / "numpy").mkdir(), 3, "not a plain file"),
    "file cut short": (lambda f: os.truncate(f / "model.onnx", 10), 2, "has 10 bytes instead of"),
    "one bit flipped": (flip, 2, "model.onnx is damaged"),
    "symbolic link": (_link, 3, "not a plain file"),
    "engines of somebody else": (lambda f: (f / "engines").mkdir(), 3, "not a plain file"),
    "engines is a link": (_link_to_folder, 3, "not a plain file"),
    "pipe": (lambda f: os.mkfifo(f / "device-report.json"), 3, "not a plain file"),
    "path upwards": (_first_file(name="../model.onnx"), 3, "reach outside"),
    "absolute path": (_first_file(name="/etc/passwd"), 3, "reach outside"),
    "name with a backslash": (_first_file(name="..\\model.onnx"), 3, "reach outside"),
    "name with an escape": (_first_file(name="\x1b[2Jmodel.onnx"), 3, "reach outside"),
    "empty name": (_first_file(name=""), 3, "reach outside"),
    "file listed twice": (_list_twice, 2, "listed twice"),
    "names that differ in case": (_list_other_case, 2, "listed twice"),
    "manifest lists itself": (_first_file(name="manifest.json"), 2, "listed twice"),
    "newer schema": (_set("schema", 99), 2, "Upgrade edgekd"),
    "no schema": (_without("schema"), 2, "no schema number"),
    "schema true": (_set("schema", True), 2, "'schema'"),
    "not an object": (_text("[1]"), 2, "no schema number"),
    "empty manifest": (_text(""), 2, "Cannot read"),
    "not JSON": (_text("{]"), 2, "Cannot read"),
    "NaN": (_text('{"schema": NaN}'), 2, "is not a number"),
    "nested too deep": (_text(DEEP), 2, "Cannot read"),
    "same key twice": (_doubled_key, 2, "appears twice"),
    "unknown field": (_set("command", "rm"), 2, "'command'"),
    "field missing": (_without("num_classes"), 2, "'num_classes'"),
    "classes as text": (_set("num_classes", "3"), 2, "'num_classes'"),
    "infinite size": (_infinite, 2, "1e999 is not a number"),
    "shape of two": (_set("input_shape", [3, 8]), 2, "'input_shape'"),
    "shape of zero": (_set("input_shape", [3, 0, 8]), 2, "'input_shape'"),
    "file entry is text": (_set("files", ["model.onnx"]), 2, "'files'"),
    "negative size": (_first_file(bytes=-1), 2, "'files'"),
    "short hash": (_first_file(sha256="00"), 2, "'files'"),
    "terminal escape in a class": (_set("class_names", ["a", "b", "\x1b]0;x\x07"]), 2, "'class_names'"),
    "right-to-left override": (_set("class_names", ["a", "b", "\u202ecat"]), 2, "'class_names'"),
    "a class too few": (_set("class_names", ["a", "b"]), 2, "number of classes"),
    "unknown origin": (_set("triggers", [{"name": "bright", "origin": "guess"}]), 2, "'triggers'"),
    "trigger twice": (_set("triggers", [{"name": "bright", "origin": "known"}] * 2), 2, "listed twice"),
    "floor of no trigger": (_set("floors", {"other": {"hits": 0, "total": 1}}), 2, "no trigger"),
    "floor of nothing": (_set("floors", {"bright": {"hits": 0, "total": 0}}), 2, "'floors'"),
    "floor above one": (_set("floors", {"bright": {"hits": 2, "total": 1}}), 2, "'floors'"),
    "reference of no file": (_foreign_reference, 2, "belongs to no file"),
    "references in a list": (_set("references", [1]), 2, "'references'"),
    "reference that is a number": (_set("references", {"model.onnx": 1}), 2, "'references'"),
    "reference that is no row": (_set("references", {"model.onnx": {"stage": []}}), 2, "'references'"),
    "reference above one": (_reference(acc={"hits": 500, "total": 3}), 2, "'references'"),
    "reference of nothing": (_reference(acc={"hits": 0, "total": 0}), 2, "'references'"),
    "reference with an escape": (_reference(precision="\x1b[2Jint8"), 2, "'references'"),
    "reference that is late": (_reference(latency={"p50_ms": "abc"}), 2, "'references'"),
    "ships what is not there": (_set("model", "model.fp16.onnx"), 2, "model that ships"),
    "ships the probes": (_set("model", "probe.npz"), 2, "model that ships"),
    "no probes listed": (_unlist("probe.npz"), 2, "no probe.npz"),
    "no package listed": (_unlist("edgekd-device.pyz"), 2, "no edgekd-device.pyz"),
    "probes are no archive": (_garbage_probes, 2, "probe.npz"),
    "probes are no arrays": (_compressed_lie, 2, "probe.npz"),
    "probes are pickled": (_pickled_probes, 3, "pickle"),
    "probes lack labels": (_probes(labels=None), 2, "'labels'"),
    "probes hold more": (_probes(trigger1_images=np.zeros(1, np.uint8)), 2, "'trigger1_images'"),
    "probes of floats": (_probes(images=np.zeros((30, 3, 8, 8), np.float32)), 2, "'images'"),
    "probes of another shape": (_probes(images=np.zeros((30, 3, 9, 8), np.uint8)), 2, "'images'"),
    "fewer labels than images": (_probes(labels=np.zeros(29, np.int64)), 2, "'images'"),
    "labels of two dimensions": (_probes(labels=np.zeros((30, 1), np.int64)), 2, "'images'"),
    "label out of range": (_probes(labels=np.full(30, 3, np.int64)), 2, "'images'"),
    "position out of range": (_probes(trigger0_index=np.full(20, 30, np.int64)), 2, "'bright'"),
    "negative label": (_probes(trigger0_attacker=np.full(20, -1, np.int64)), 2, "'bright'"),
    "answers of no file": (_probes(**{"answers_x.onnx": np.zeros(30, np.uint8)}), 2, "'answers_x.onnx'"),
    "answers of floats": (_probes(**{"answers_model.onnx": np.zeros(30, np.float32)}), 2, "'answers_model.onnx'"),
    "answers of wide numbers": (_probes(**{"answers_model.onnx": np.zeros(30, np.int64)}), 2, "'answers_model.onnx'"),
    "an answer too few": (_probes(**{"answers_model.onnx": np.zeros(29, np.uint8)}), 2, "'model.onnx'"),
    "answer out of range": (_probes(**{"answers_model.onnx": np.full(30, 3, np.uint8)}), 2, "'model.onnx'"),
    "nothing to count": (_probes(trigger0_attacker=np.repeat([[1, 2]], 10, 0).ravel()), 2, "'bright'"),
    "no images": (_probes(images=np.zeros((0, 3, 8, 8), np.uint8), labels=np.zeros(0, np.int64)), 2, "'images'"),
}

# One bit of any file of a bundle whose manifest's SHA-256 is known: name -> file, where in it, exit code, words
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
FLIPPED = {
    "manifest.json": (3, "not the bundle you expect"),
    **{name: (2, f"{name} is damaged") for name in ("edgekd-device.pyz", "model.onnx", "model.u8s8.onnx", "probe.npz")},
}
FLIPS = {
    f"{name}, bit at {share:.0%}": (name, share, code, words)
    for name, (code, words) in FLIPPED.items()
    for share in SHARES
}
