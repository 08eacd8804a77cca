"""`load` and what the parent checks again; the store of our own weights."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_files import saved, state

import edgekd.checkpoints
from edgekd import checkpoints
from edgekd.checkpoints import intake, sandbox
from edgekd.checkpoints.limits import Limits
from edgekd.errors import EnvironmentFault, UnsafeInput, UsageError


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.pt"
    path.write_bytes(saved({"net": {f"module.{key}": value for key, value in state().items()}, "acc": 91.5}))
    return path


def test_load_says_what_it_found(teacher: Path) -> None:
    found = checkpoints.load(str(teacher))
    assert (found.format, found.layout, found.metadata) == ("torch-zip", ("net", "module."), {"acc": 91.5})
    assert found.sha256 == hashlib.sha256(teacher.read_bytes()).hexdigest() == checkpoints.digest(teacher)
    assert all(torch.equal(found.tensors[key], value) for key, value in state().items())
    found.tensors["conv.weight"].add_(1)  # ours to change: no view of read-only bytes


def test_links_are_followed_to_regular_files(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(teacher)
    assert checkpoints.load(tmp_path / "link.pt").sha256 == checkpoints.load(teacher).sha256
    (tmp_path / "null.pt").symlink_to("/dev/null")
    with pytest.raises(UsageError, match="device"):
        checkpoints.load(tmp_path / "null.pt")


def test_large_files_are_refused_before_they_are_read(teacher: Path) -> None:
    with pytest.raises(UsageError, match="files over 10 are not read"):
        checkpoints.load(teacher, limits=Limits(file_bytes=10))


def test_files_that_change_or_fail_while_read(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="changed while it was read"):
        checkpoints.digest("/proc/self/status")  # regular, of size 0, with content
    real = os.fstat

    def failing(handle: int) -> os.stat_result:
        real(handle)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", failing)
        with pytest.raises(UsageError, match="Input/output error"):
            checkpoints.digest(teacher)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(teacher: Path) -> None:
    teacher.chmod(0)
    with pytest.raises(UsageError, match="Permission denied"):
        checkpoints.load(teacher)


def test_a_small_memory_limit_refuses_and_does_not_crash_us(teacher: Path) -> None:
    with pytest.raises((UnsafeInput, EnvironmentFault)):
        checkpoints.load(teacher, limits=Limits(memory_bytes=1 << 20))


def test_warnings_and_refusals_about_numbers(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(saved({"w": torch.tensor([1.0, -2e5]), "n": torch.tensor(10**9), "e": torch.zeros(0)}))
    assert checkpoints.load(path).warnings == ("Tensor w holds numbers up to 2e+05; trained weights rarely do.",)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        with pytest.raises(UsageError, match="t: tensor w holds NaN"):
            intake.check_numbers({"w": torch.tensor([1, float("nan")], dtype=dtype)}, "t")


def answering(monkeypatch: pytest.MonkeyPatch, header: dict[str, Any], numbers: bytes) -> None:
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: (header, numbers))


@pytest.mark.parametrize(
    ("header", "numbers"),
    [
        ({}, b""),
        ({"format": "pickle"}, b""),
        ({"format": "torch-zip"}, b"short"),
        ({"format": "torch-zip"}, safetensors.torch.save({})),
        ({"format": "torch-zip"}, safetensors.torch.save({"<b>": torch.ones(1)})),
    ],
)
def test_a_child_taken_over_is_not_believed(
    teacher: Path, header: dict[str, Any], numbers: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, header, numbers)
    with pytest.raises(UnsafeInput, match="nonsense"):
        checkpoints.load(teacher)


def test_what_a_child_says_is_cleaned_again(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {"a\x1b": "b\x1b", "list": [1], "table": {"x": 1}, "none": None}
    header = {"format": "torch-zip", "layout": "x", "metadata": metadata, "warnings": ["w\x1b"]}
    answering(monkeypatch, header, safetensors.torch.save({"w": torch.ones(1)}))
    found = checkpoints.load(teacher)
    assert found.layout == ()
    assert found.metadata == {"a?": "b?"}
    assert found.warnings == ("w?",)
    answering(monkeypatch, header | {"format": "onnx"}, b"")
    assert checkpoints.load(teacher).metadata == {"a?": "b?", "list": [1], "table": {"x": 1}}
    answering(monkeypatch, header | {"metadata": []}, safetensors.torch.save({"w": torch.ones(1)}))
    assert checkpoints.load(teacher).metadata == {}


def test_names_are_resolved_lazily() -> None:
    code = "import sys, edgekd.checkpoints, edgekd.checkpoints.worker; print({'torch', 'numpy', 'onnx'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="nothing_like_it"):
        edgekd.checkpoints.nothing_like_it  # noqa: B018
    assert set(edgekd.checkpoints.__all__) == set(edgekd.checkpoints._HOMES)


# ---- the store -------------------------------------------------------------------------------------------------------


def test_saved_weights_come_back_with_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    tied = torch.randn(3, 4)
    tensors = {"b": tied.T, "a": tied, "c": tied}
    sha256 = checkpoints.save(path, tensors, {"spec": {"arch": "resnet8"}})
    assert sha256 == checkpoints.digest(path)
    found, metadata = checkpoints.load_student(path)
    assert metadata == {"spec": {"arch": "resnet8"}}
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    sidecar = checkpoints.load_sidecar(path)
    assert sidecar is not None
    assert sidecar["tensors"]["b"] == {"dtype": "F32", "shape": [4, 3]}
    assert checkpoints.load(path).tensors.keys() == tensors.keys()


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from edgekd import checkpoints; "
        "t = {n: torch.arange(5.) + i for i, n in enumerate(sys.argv[2])}; "
        "print(checkpoints.save(sys.argv[1], t, {'b': 1, 'a': 2}))"
    )
    other = tmp_path / "other.safetensors"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(other), "xyzab"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    path = tmp_path / "w.safetensors"
    tensors = {name: torch.arange(5.0) + index for index, name in enumerate("xyzab")}
    checkpoints.save(path, dict(reversed(tensors.items())), {"a": 2, "b": 1})
    assert path.read_bytes() == other.read_bytes()
    assert Path(f"{path}.json").read_bytes() == Path(f"{other}.json").read_bytes()


@pytest.mark.parametrize("place", ["weights.before_write", "weights_sidecar.before_rename"])
def test_a_full_disk_leaves_no_half_file(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_FAULT", f"{place}:1:enospc")
    monkeypatch.setattr("edgekd_device.files._reached", {})
    path = tmp_path / "w.safetensors"
    with pytest.raises(EnvironmentFault, match="Could not write"):
        checkpoints.save(path, state(), {})
    assert [found.name for found in tmp_path.iterdir()] in ([], ["w.safetensors"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda record: [], "not a sidecar"),
        (lambda record: record | {"schema": "1"}, "not a sidecar"),
        (lambda record: record | {"schema": 99}, "newer than"),
        (lambda record: record | {"metadata": None}, "not a sidecar"),
        (lambda record: record | {"sha256": "0" * 64}, "does not describe the weights"),
    ],
)
def test_sidecars_that_do_not_belong(change: Any, word: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    checkpoints.save(path, state(), {})
    beside = Path(f"{path}.json")
    beside.write_text(json.dumps(change(json.loads(beside.read_text()))))
    with pytest.raises(UsageError, match=word):
        checkpoints.load_student(path)


def test_weights_without_a_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    checkpoints.save(path, state(), {})
    Path(f"{path}.json").unlink()
    assert checkpoints.load_sidecar(path) is None
    with pytest.raises(UsageError, match="no sidecar"):
        checkpoints.load_student(path)


def test_convert_keeps_weights_and_origin(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    written = checkpoints.convert(teacher, tmp_path / "out")
    assert written == tmp_path / "out" / "teacher.safetensors"
    sidecar = checkpoints.load_sidecar(written)
    assert sidecar is not None
    assert sidecar["metadata"] == {
        "source": {"file": "teacher.pt", "sha256": checkpoints.digest(teacher), "format": "torch-zip"},
        "layout": ["net", "module."],
        "beside": {"acc": 91.5},
        "warnings": [],
    }
    assert str(tmp_path) not in Path(f"{written}.json").read_text()
    assert all(torch.equal(checkpoints.load(written).tensors[key], value) for key, value in state().items())


def test_convert_overwrites_nothing_and_makes_no_folder(teacher: Path, tmp_path: Path) -> None:
    written = tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match="absent: is not a folder"):
        checkpoints.convert(teacher, tmp_path / "absent" / "out.safetensors")
    assert not (tmp_path / "absent").exists()
    sidecar = Path(f"{written}.json")
    for file in (written, sidecar):
        for there in (lambda file: file.write_text("mine"), lambda file: file.symlink_to("nowhere")):
            there(file)
            with pytest.raises(UsageError, match="already exists and holds something else"):
                checkpoints.convert(teacher, written)
            assert {path.name for path in tmp_path.iterdir()} == {"teacher.pt", file.name}
            file.unlink()
    checkpoints.convert(teacher, written)
    before = written.read_bytes(), sidecar.read_bytes()
    sidecar.unlink()  # as a kill between the two leaves it
    for _ in range(2):
        checkpoints.convert(teacher, written)
        assert (written.read_bytes(), sidecar.read_bytes()) == before
    other = tmp_path / "other.pt"
    other.write_bytes(saved({"w": torch.ones(1)}))
    with pytest.raises(UsageError, match="move it away"):
        checkpoints.convert(other, written)
    assert (written.read_bytes(), sidecar.read_bytes()) == before


def test_convert_refuses_bad_destinations_and_graphs(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must end in"):
        checkpoints.convert(teacher, tmp_path / "out.pt")
    written = checkpoints.convert(teacher, tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match="source itself"):
        checkpoints.convert(written, written)
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="ONNX graph"):
        checkpoints.convert(tmp_path / "t.onnx", tmp_path / "t.safetensors")
