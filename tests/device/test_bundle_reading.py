"""Bad bundles: each is refused with its exit code and one line that says why, and nothing is written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from bad_bundles import BAD, FLIPPED, FLIPS, flip

from edgekd_device import bundle
from edgekd_device.__main__ import main
from edgekd_device.errors import EdgekdError, UnsafeInput, UsageError


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
    # `info` reads no probes; whatever it is given, it ends with an answer or one line, and leaves nothing behind
    assert main(["info", str(tiny_bundle)]) in (0, code)
    assert _snapshot(tiny_bundle) == before


def test_there_are_enough_bad_bundles(tiny_bundle):
    assert len(BAD) >= 14
    assert set(FLIPPED) == {path.name for path in tiny_bundle.iterdir()}, "every file of a bundle"


@pytest.mark.parametrize("case", FLIPS)
def test_one_flipped_bit_of_any_file_is_refused_by_who_knows_the_manifest(case, tiny_bundle, capsys):
    name, share, code, words = FLIPS[case]
    known = bundle.read(tiny_bundle).manifest_sha256
    flip(tiny_bundle, name, share)
    assert main(["check", str(tiny_bundle), "--manifest-sha256", known]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_good_bundle(tiny_bundle):
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
    flip(tiny_bundle)
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
