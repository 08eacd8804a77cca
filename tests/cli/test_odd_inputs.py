"""What people really have: odd paths, few images, grey ones, other labels, an ONNX teacher, names in another order."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from endings import Ended, call
from PIL import Image
from world import CLASSES, World, pictures

from edgekd import checkpoints
from edgekd.types import InputSpec, ModelSpec

Words = Callable[..., list[str]]


def data(path: Path, count: int = 240, **changes: np.ndarray) -> Path:
    images, labels = pictures(count, 5)
    np.savez(path, **{"images": images, "labels": labels, **changes})
    return path


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_spaces_unicode_links_and_relative_paths(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "mäin dir"
    place.mkdir()
    shutil.copy(world.teacher, place / "téa cher.pt")
    (place / "link.pt").symlink_to("téa cher.pt")
    data(place / "im ages.npz")
    monkeypatch.chdir(place)
    words = ["--data", "im ages.npz", "--method", "kd", "--student", "resnet8-w4", "-o", "train.epochs=1"]
    ended = call("distill", "link.pt", *words)
    assert ended.code == 0, ended.err
    assert "wrote runs/link-distill/student.safetensors" in ended.out
    assert call("distill", "./téa cher.pt", *words, "--out", "runs/link-distill").code == 0  # what the link names
    audited = call("audit", "téa cher.pt", "--data", "im ages.npz", "--no-canaries")
    assert "téa cher.pt: resnet8-w8, ACC 100.0 % (240/240" in audited.out
    assert "“Nothing found” is not “clean”." in audited.out
    assert "No trigger was tested." in audited.out


@pytest.mark.slow  # three whole runs
def test_a_corrected_note_beside_the_teacher_is_followed_everywhere(short: Words, world: World, tmp_path: Path) -> None:
    teacher, tensors = tmp_path / "teacher.safetensors", checkpoints.load(world.teacher).tensors
    spec = ModelSpec("resnet8-w8", len(CLASSES), InputSpec(3, 32, 32, (0.0,) * 3, (1.0,) * 3))
    right = dataclasses.replace(
        spec, input=InputSpec(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
    )  # the student's in either case
    words = short(teacher=teacher)
    for noted, folder in ((spec, "run"), (right, "run"), (right, "fresh")):
        checkpoints.save(teacher, tensors, {"spec": noted.to_json()})
        ended = call(*words, "--out", tmp_path / folder)
        assert ended.code == 0, ended.err
    again, fresh = record_of(tmp_path / "run"), record_of(tmp_path / "fresh")
    assert ModelSpec.from_json(again["teacher"]["spec"]) == right
    assert again["rows"][0]["acc"] == fresh["rows"][0]["acc"] == {"hits": 48, "total": 48}
    assert again["disagreement"] == fresh["disagreement"]
    for name in ("student.safetensors", "bundle/manifest.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_fewer_images_than_a_batch(world: World, tmp_path: Path) -> None:
    words = ["distill", world.teacher, "--normalize", "half", "--data", data(tmp_path / "few.npz", 60)]
    words += ["--method", "kd", "--student", "resnet8-w4", "-o", "train.batch_size=512", "-o", "train.epochs=2"]
    ended = call(*words, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("count", "said"), [(5, "too few to split"), (24, "Calibration needs at least 32")])
def test_too_few_images_are_said_before_training(short: Words, tmp_path: Path, count: int, said: str) -> None:
    ended = call(*short("--out", tmp_path / "run", "--normalize", "half", data=data(tmp_path / "few.npz", count)))
    assert ended.code == 2
    assert said in ended.message()
    assert not (tmp_path / "run").exists()


def test_grey_images_for_a_colour_teacher(short: Words, world: World, tmp_path: Path) -> None:
    grey = data(tmp_path / "grey.npz", images=pictures(240, 5)[0][..., 1])
    ended = call(*short("--out", tmp_path / "run", data=grey))
    assert ended.code == 2
    assert "1x32x32" in ended.message()
    assert "--channels" in ended.message()
    audited = call("audit", world.teacher, "--data", grey, "--channels", "3", "--no-canaries", "--json")
    assert audited.code == 0, audited.err
    assert audited.json["acc"]["total"] == 240


def test_labels_that_the_teacher_does_not_have(short: Words, tmp_path: Path) -> None:
    labels = pictures(240, 5)[1]
    labels[7] = 9
    ended = call(*short("--out", tmp_path / "run", data=data(tmp_path / "data.npz", labels=labels)))
    assert ended.code == 2
    assert "label 9" in ended.message()
    assert "--class-map" in ended.message()


def test_labels_in_another_order(short: Words, world: World, tmp_path: Path) -> None:
    shifted = data(tmp_path / "data.npz", labels=(pictures(240, 5)[1] + 2) % 6)
    ended = call(*short("--out", tmp_path / "run", data=shifted))
    assert ended.code == 2
    assert "about chance" in ended.message()
    assert "--class-map" in ended.message()
    assert "--normalize" in ended.message()
    (tmp_path / "map.yaml").write_text("".join(f"{(k + 2) % 6}: {k}\n" for k in range(6)))
    words = ["audit", world.teacher, "--data", shifted, "--class-map", tmp_path / "map.yaml", "--no-canaries", "--json"]
    assert call(*words).json["acc"] == {"hits": 240, "total": 240}


def test_a_teacher_of_more_classes_than_the_data_names(world: World, tmp_path: Path) -> None:
    """Four of the six classes are in the data: the student keeps all outputs, the audit asks for all targets."""
    images, labels = pictures(240, 5, classes=4)
    np.savez(tmp_path / "four.npz", images=images, labels=labels, class_names=np.array(CLASSES[:4]))
    words = ["distill", world.teacher, "--data", tmp_path / "four.npz", "--method", "kd", "--student", "resnet8-w4"]
    distilled = call(*words, "-o", "train.epochs=1", "--out", tmp_path / "run", "--json")
    assert distilled.code == 0, distilled.err
    assert distilled.json["spec"]["num_classes"] == 6
    audited = call("audit", world.teacher, "--data", tmp_path / "four.npz", "-o", "audit.canary_images=50", "--json")
    assert audited.code == 0, audited.err
    assert audited.json["canaries"]["targets"] == [0, 1, 2, 3, 4, 5]


def test_test_images_with_a_class_missing(short: Words, tmp_path: Path) -> None:
    """A folder's labels are numbered by name: without `bee`, every later class would be another."""
    train = data(tmp_path / "train.npz", class_names=np.array(CLASSES))
    images, labels = pictures(120, 6)
    kept = labels != 1
    names = np.array([name for name in CLASSES if name != "bee"])
    np.savez(
        tmp_path / "test.npz", images=images[kept], labels=np.where(labels > 1, labels - 1, 0)[kept], class_names=names
    )
    ended = call(*short("--out", tmp_path / "run", "--test", tmp_path / "test.npz", data=train))
    assert ended.code == 2
    assert "'bee'" in ended.message()
    small = data(tmp_path / "small.npz", images=pictures(240, 5)[0][:, :16, :16])
    assert "--image-size" in call(*short("--out", tmp_path / "run", "--test", small, data=train)).message()


def test_folders_that_are_numbers_with_one_missing(short: Words, tmp_path: Path) -> None:
    """Names that are numbers are names: without `3`, the folder `4` would get its label."""
    images, labels = pictures(240, 5)
    for part, kept in (("train", range(6)), ("test", (0, 1, 2, 4, 5))):
        for label in kept:
            folder = tmp_path / part / str(label)
            folder.mkdir(parents=True)
            for number in np.flatnonzero(labels == label)[:12]:
                Image.fromarray(images[number]).save(folder / f"{number}.png")
    ended = call(*short("--out", tmp_path / "run", "--test", tmp_path / "test", data=tmp_path / "train"))
    assert ended.code == 2
    assert "class '3' of the training images has the label of the class '4'" in ended.message()
    unnamed = data(tmp_path / "unnamed.npz")  # numbers stand for names there, whatever the folders are called
    ended = call(*short("--out", tmp_path / "run", "--test", unnamed, "--dry-run", data=tmp_path / "train"))
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target-label", "2"], "Name its file with --trigger"),
        (["--num-classes", "7"], "has 6 outputs"),
        (["--controls", "kd, overhoul"], "overhoul"),
        (["-o", "distill.serch_steps=3"], "did you mean 'search_steps' of the method robustkd-plus?"),
        (["-o", "distill.temperature=2"], "temperature and alpha go with base=logits"),
        (["-o", "student=no_such_module:net"], "Cannot import 'no_such_module' of the network no_such_module:net"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_do_not_fit(short: Words, tmp_path: Path, words: list[str], said: str) -> None:
    ended = call(*short("--out", tmp_path / "run", "--normalize", "half", *words))
    assert ended.code == 2
    assert said in ended.message()
    assert not (tmp_path / "run").exists()


def test_a_dry_run_warns_of_a_student_that_is_no_smaller(short: Words, tmp_path: Path) -> None:
    ended = call(*short("--out", tmp_path / "run", "--normalize", "half", "-o", "student=resnet20", "--dry-run"))
    assert ended.code == 0, ended.err
    assert "nothing is compressed" in ended.out
    assert "it will not be faster" in ended.out


def test_an_onnx_teacher_has_logits_only(short: Words, finished: tuple[Path, Ended], tmp_path: Path) -> None:
    teacher = finished[0] / "bundle" / "model.onnx"
    refused = call(*short("--out", tmp_path / "run", "--normalize", "none", teacher=teacher))
    assert refused.code == 2
    assert "Methods that work with it: scratch, kd, " in refused.message()
    assert not (tmp_path / "run").exists()
    words = ["distill", teacher, "--method", "kd", "--student", "resnet8-w4", "-o", "train.epochs=1"]
    words += ["--data", data(tmp_path / "data.npz"), "--out", tmp_path / "run"]
    ended = call(*words)
    assert ended.code == 0, ended.err
    assert call(*words).out == ended.out
    assert "already an ONNX graph" in call("export", teacher, "--data", tmp_path / "data.npz").message()


def test_a_network_of_ones_own(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef small(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(4, num_classes))\n\n\ndef quits(num_classes):\n    raise SystemExit(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["distill", world.teacher, "--data", world.train, "--method", "kd", "-o", "train.epochs=1", "--student"]
    ended = call(*words, "mine:small", "--out", "run")
    assert ended.code == 0, ended.err
    assert "mine:small, validation ACC" in ended.out
    assert "package.module:callable" in call(*words, "mine:smal", "--out", "other").message()
    assert call(*words, "mine:quits", "--out", "other").code == 2


def test_a_device_that_is_not_there(short: Words, tmp_path: Path) -> None:
    ended = call(*short("--out", tmp_path / "run", "--device", "cuda:77"))
    assert ended.code == 2
    assert "--device cpu" in ended.message()
    assert not (tmp_path / "run").exists()
