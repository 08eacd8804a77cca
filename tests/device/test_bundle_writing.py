"""Writing bundles: the same bytes every time, the manifest last, nothing half-written that a reader would accept."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bundles import TARGET, graph, onnx_file, probe_set, write_bundle

from edgekd.errors import EnvironmentFault, UsageError
from edgekd.export import bundle as writer
from edgekd.types import InputSpec, ModelSpec, TriggeredImages
from edgekd_device import bundle, files

POINTS = ("model", "probes", "package", "manifest")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_two_bundles_are_byte_equal(tmp_path, pristine, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("TZ", "Pacific/Apia")
    again = write_bundle(tmp_path)
    assert contents(again) == contents(pristine)


def test_what_differs_from_run_to_run_stays_out(pristine):
    text = (pristine / "manifest.json").read_text()
    row = json.loads(text)["references"]["model.onnx"]
    assert (row["seconds"], row["latency"], row["energy_mj"]) == (None, None, None)
    assert str(pristine.parent) not in text
    for name in ("probe.npz", "edgekd-device.pyz"):
        with zipfile.ZipFile(pristine / name) as archive:
            assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
            assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_manifest_of_a_bundle(pristine):
    path, sha256 = pristine / "manifest.json", files.sha256_file(pristine / "manifest.json")
    found = bundle.read(pristine)
    assert found.manifest_sha256 == sha256
    assert found.manifest.input_shape == (3, 8, 8)
    assert found.manifest.floors == {"bright": {"hits": 1, "total": 20}}
    assert [entry.name for entry in found.manifest.files] == sorted(p.name for p in pristine.iterdir() if p != path)


def test_probes_read_as_plain_numpy(pristine):
    with np.load(pristine / "probe.npz", allow_pickle=False) as archive:
        expected = probe_set()
        assert archive["images"].tolist() == expected.images.tolist()
        assert archive["trigger0_index"].tolist() == expected.triggered[0].index.tolist()
        assert archive["labels"].dtype == np.int64


@pytest.mark.parametrize(("classes", "bytes_each"), [(3, 1), (256, 1), (257, 2)])
def test_the_hosts_answers_take_a_byte_an_image(classes, bytes_each, tmp_path):
    target = dataclasses.replace(TARGET, ships="model.onnx", files=("model.onnx",))
    answers = {"model.onnx": np.arange(30) % classes, "absent.onnx": np.zeros(30, np.int64)}
    folder = write_bundle(
        tmp_path,
        {"model.onnx": graph(classes=classes)},
        target=target,
        spec=ModelSpec("resnet8", classes, InputSpec(3, 8, 8, (0.5,) * 3, (0.25,) * 3)),
        class_names=[f"class {k}" for k in range(classes)],
        references={},
        answers=answers,
    )
    found = bundle.probes(bundle.read(folder)).answers
    assert list(found) == ["model.onnx"]
    assert (found["model.onnx"].tolist(), found["model.onnx"].itemsize) == (answers["model.onnx"].tolist(), bytes_each)


def test_a_bundle_from_before_the_host_kept_its_answers(tmp_path):
    assert bundle.probes(bundle.read(write_bundle(tmp_path, answers=None))).answers == {}


def test_a_second_writing_takes_out_models_that_are_no_longer_wanted(tmp_path):
    folder = write_bundle(tmp_path)
    (folder / "device-report.json").write_text("{}")
    target = dataclasses.replace(TARGET, ships="model.onnx", files=("model.onnx",), threads=2)
    write_bundle(tmp_path, {"model.onnx": graph(scale=3.0)}, target=target, references={}, floors={})
    found = bundle.read(folder)
    assert found.models == ("model.onnx",)
    assert (found.manifest.threads, found.manifest.references, found.manifest.floors) == (2, {}, {})


@pytest.mark.parametrize(
    ("names", "may"),
    [
        ((), True),
        ((".edgekd-device.pyz.ab_1.part",), True),
        (("edgekd-device.pyz", "model.onnx", ".model.u8s8.onnx.x.part"), True),
        (("edgekd-device.pyz", "probe.npz", ".manifest.json.x.part"), True),
        (("edgekd-device.pyz", "manifest.json"), False),
        (("edgekd-device.pyz", "model.onnx", "mine.onnx"), False),
        (("edgekd-device.pyz", ".photo.part"), False),
        (("model.onnx",), False),
        (("probe.npz", "manifest.json"), False),
    ],
)
def test_what_a_kill_left_of_a_bundle_is_told_from_a_users_files(tmp_path, names, may):
    for name in names:
        (tmp_path / name).write_text("")
    assert writer.unfinished(tmp_path) is may


def test_a_bundle_is_no_file(tmp_path):
    assert writer.unfinished(tmp_path / "new")
    (tmp_path / "file").touch()
    assert not writer.unfinished(tmp_path / "file")


def test_a_bundle_without_triggers(tmp_path):
    probes = dataclasses.replace(probe_set(), triggered=())
    assert bundle.probes(bundle.read(write_bundle(tmp_path, probes=probes))).triggered == ()


def test_what_the_target_asks_for_must_be_there(tmp_path):
    with pytest.raises(UsageError, match=r"cpu needs model\.u8s8\.onnx"):
        write_bundle(tmp_path, {"model.onnx": graph()})
    assert not (tmp_path / "bundle").exists()


def test_a_model_that_changed_after_its_export(tmp_path):
    made = [onnx_file(tmp_path, name, graph()) for name in TARGET.files]
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(UsageError, match="changed after its export"):
        write_bundle(tmp_path, onnx=made)


def test_what_a_reader_would_refuse_is_found_when_writing(tmp_path):
    with pytest.raises(UsageError, match="number of classes"):
        write_bundle(tmp_path, class_names=("one", "two"))
    twice = probe_set().triggered[0]
    probes = dataclasses.replace(probe_set(), triggered=(twice, TriggeredImages(**vars(twice))))
    with pytest.raises(UsageError, match="trigger is listed twice"):
        write_bundle(tmp_path, probes=probes)


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("point", ["before_write", "before_rename", "after_rename"])
def test_a_full_disk_at_every_step(name, point, tmp_path, pristine, monkeypatch):
    monkeypatch.setattr(files, "_reached", {})
    monkeypatch.setenv("EDGEKD_FAULT", f"bundle-{name}.{point}:1:enospc")
    with pytest.raises(EnvironmentFault, match="Could not write"):
        write_bundle(tmp_path)
    if (name, point) != ("manifest", "after_rename"):
        with pytest.raises(UsageError):
            bundle.read(tmp_path / "bundle")
    monkeypatch.delenv("EDGEKD_FAULT")
    assert contents(write_bundle(tmp_path)) == contents(pristine)


def test_a_kill_while_writing_over_an_older_bundle(tmp_path, pristine):
    """The older manifest still lies there; it must not make a mixture pass."""
    write_bundle(tmp_path, {"model.onnx": graph(scale=3.0), "model.u8s8.onnx": graph(scale=3.0)})
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path\n"
    code += f"from bundles import write_bundle; write_bundle(Path({str(tmp_path)!r}))"
    environment = {**os.environ, "EDGEKD_FAULT": "bundle-manifest.before_rename:1:kill"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    with pytest.raises(UsageError):
        bundle.read(tmp_path / "bundle")
    files.remove_leftovers(tmp_path)
    assert contents(write_bundle(tmp_path)) == contents(pristine)


def test_the_package_is_the_source_and_nothing_else(monkeypatch):
    with zipfile.ZipFile(io.BytesIO(writer.package())) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert "edgekd_device/runtime/ort.py" in names
        assert all(name.endswith(".py") for name in names)
        source = Path(bundle.__file__).parent.parent
        assert all((source / name).read_bytes() == archive.read(name) for name in names)
        assert all(stat.S_IMODE(info.external_attr >> 16) == 0o644 for info in archive.infolist())
