"""Bad bundles: each is refused with its exit code and one line that says why, and nothing is written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bundles import edit, replace_file

from edgekd_device import bundle
from edgekd_device.__main__ import main
from edgekd_device.errors import EdgekdError, UnsafeInput, UsageError


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


def _flip(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)


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


def _foreign_reference(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["references"].update({"x.onnx": manifest["references"]["model.onnx"]}))


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
    "no manifest": (_remove("manifest.json"), 2, "holds no manifest.json"),
    "model missing": (_remove("model.onnx"), 2, "lacks model.onnx"),
    "probes missing": (_remove("probe.npz"), 2, "lacks probe.npz"),
    "extra file": (lambda f: (f / "libcuda.so").write_bytes(b"x"), 2, "'libcuda.so'"),
    "hidden extra file": (lambda f: (f / ".pth").write_bytes(b"x"), 2, "'.pth'"),
    "extra folder": (lambda f: (f / "numpy").mkdir(), 3, "not a plain file"),
    "file cut short": (lambda f: os.truncate(f / "model.onnx", 10), 2, "has 10 bytes instead of"),
    "one bit flipped": (_flip, 2, "model.onnx is damaged"),
    "symbolic link": (_link, 3, "not a plain file"),
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
    "same key twice": (_doubled_key, 2, "stands there twice"),
    "unknown field": (_set("command", "rm"), 2, "'command'"),
    "field missing": (_without("num_classes"), 2, "'num_classes'"),
    "classes as text": (_set("num_classes", "3"), 2, "'num_classes'"),
    "infinite size": (_infinite, 2, "'num_classes'"),
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
    "floor above one": (_set("floors", {"bright": {"hits": 2, "total": 1}}), 2, "'floors'"),
    "reference of no file": (_foreign_reference, 2, "belongs to no file"),
    "reference that is a number": (_set("references", {"model.onnx": 1}), 2, "'references'"),
    "reference that is no row": (_set("references", {"model.onnx": {"stage": []}}), 2, "'references'"),
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
    "no images": (_probes(images=np.zeros((0, 3, 8, 8), np.uint8), labels=np.zeros(0, np.int64)), 2, "'images'"),
}


def _snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        p.name: p.read_bytes() if p.is_file() else None for p in sorted(folder.parent.rglob("*")) if not p.is_fifo()
    }


@pytest.mark.parametrize("case", BAD)
def test_bad_bundles_are_refused(case, tiny_bundle, capsys, monkeypatch):
    spoil, code, words = BAD[case]
    spoil(tiny_bundle)
    before = _snapshot(tiny_bundle)
    monkeypatch.chdir(tiny_bundle.parent)
    assert main(["check", str(tiny_bundle)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert _snapshot(tiny_bundle) == before


def test_there_are_enough_bad_bundles():
    assert len(BAD) >= 14


def test_good_bundle(tiny_bundle):
    (tiny_bundle / "engines").mkdir()
    (tiny_bundle / "device-report.2.json").write_text("{}")
    (tiny_bundle / ".device-report.json.x.part").write_text("")
    found = bundle.read(tiny_bundle)
    assert found.models == ("model.u8s8.onnx", "model.onnx")
    assert found.manifest.class_names == ("red", "green", "blue")
    probes = bundle.probes(found)
    assert probes.images.shape == (30, 3, 8, 8)
    assert probes.triggered[0].positions.tolist() == [i for i in range(30) if i % 3]


def test_manifest_hash_holds_a_bundle_to_its_origin(tiny_bundle):
    known = bundle.read(tiny_bundle).manifest_sha256
    assert bundle.read(tiny_bundle, known.upper() + "\n").manifest_sha256 == known
    with pytest.raises(UnsafeInput, match="not the bundle you expect"):
        bundle.read(tiny_bundle, "0" * 64)


def test_no_folder_and_a_file_instead_of_a_folder(tmp_path, tiny_bundle):
    with pytest.raises(UsageError, match="No such file"):
        bundle.read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="Not a directory"):
        bundle.read(tiny_bundle / "manifest.json")


def test_a_model_that_changes_after_the_check(tiny_bundle):
    found = bundle.read(tiny_bundle)
    _flip(tiny_bundle)
    assert found.model("model.u8s8.onnx")
    with pytest.raises(UsageError, match="changed while it was read"):
        found.model("model.onnx")


@contextlib.contextmanager
def _flipped(path: Path, position: int, bits: int):
    """One byte of the file with these bits turned over; in place, because truncating a file costs milliseconds."""
    with path.open("r+b", buffering=0) as stream:
        byte = os.pread(stream.fileno(), 1, position)
        os.pwrite(stream.fileno(), bytes([byte[0] ^ bits]), position)
        yield
        os.pwrite(stream.fileno(), byte, position)


def test_every_flipped_byte_of_the_manifest_is_noticed(tiny_bundle):
    """With the known hash no flip is accepted; without it nothing but our own errors ever comes out."""
    path = tiny_bundle / "manifest.json"
    data, known = path.read_bytes(), bundle.read(tiny_bundle).manifest_sha256
    for position in range(len(data)):
        with _flipped(path, position, 1 << position % 8):
            with pytest.raises(UnsafeInput):
                bundle.read(tiny_bundle, known)
            with contextlib.suppress(EdgekdError):
                bundle.read(tiny_bundle)
    assert path.read_bytes() == data


@pytest.mark.parametrize("name", ["model.onnx", "probe.npz", "edgekd-device.pyz"])
def test_a_hundred_flipped_bytes_of_a_file_are_noticed(name, tiny_bundle):
    path = tiny_bundle / name
    size = path.stat().st_size
    for position in range(0, size, max(1, size // 100)):
        with _flipped(path, position, 4), pytest.raises(UsageError, match="damaged"):
            bundle.read(tiny_bundle)
