"""compress --data none: the whole trip without an image of the user's, and what is said of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import world as worlds
from endings import call, spawn

from edgekd_device import bundle

QUICK = (
    "student=resnet8-w4", "train.epochs=2", "train.batch_size=32", "source.images=128", "abd.shuffle.pool=64",
    "abd.retrospect.steps=2", "abd.retrospect.inner_steps=1", "abd.retrospection=true", "quantize.images=64",
)  # fmt: skip


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that has nothing to do with the classes."""
    from PIL import Image

    file = tmp_path_factory.mktemp("photo") / "street.png"
    coarse = np.random.default_rng(3).integers(0, 255, (30, 40, 3))
    Image.fromarray(np.kron(coarse, np.ones((6, 6, 1))).astype(np.uint8)).save(file)
    return file


@pytest.fixture
def words(world: worlds.World, photo: Path):
    def made(*more: object, quick: tuple[str, ...] = QUICK, normalize: str | None = "half") -> list[str]:
        found = ["compress", str(world.teacher), "--data", "none", "--quiet", "--bench", "none"]
        found += [] if "--source" in more else ["--source", f"patches:{photo}"]
        found += [] if normalize is None else ["--normalize", normalize]
        for setting in quick:
            found += ["-o", setting]
        return [*found, *map(str, more)]

    return made


def test_without_any_labelled_image(words, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = call(*words("--out", run, "--max-asr", "2", "--max-acc-drop", "5", "--bench", "smoke"))
    assert ended.code == 1, ended.err
    record = json.loads((run / "run.json").read_text())
    assert all(row["acc"] is None and not row["triggers"] for row in record["rows"])
    by_name = {row["stage"]: row for row in record["rows"]}
    assert by_name["student fp32"]["flips"]["total"] == 1000
    assert any("teacher's answer on" in note for note in by_name["model.u8s8.onnx"]["notes"])
    assert "edgekd: The gate --max-asr cannot be met" in ended.err
    assert "edgekd: The gate --max-acc-drop cannot be met" in ended.err
    assert not record["gates"][0]["passed"]
    assert not record["gates"][1]["passed"]
    assert "not measured" in record["gates"][1]["why"]
    assert record["verdict"].startswith("ACC and ASR were not measured")
    assert "ACC and ASR (no labelled images were given)" in record["not_tested"]
    said = " ".join(record["warnings"])
    assert "INT8 scales were set on 64 synthetic images" in said
    assert "Give some with --test" in said
    assert "nasty teacher" in said
    assert record["data"].keys() == {"validation"}
    assert record["config"]["source"]["image"] == "street.png"
    assert record["disagreement"] is record["classes"] is None
    assert record["training"]["student"]["method"]["retrospection"]["after"] >= 0
    assert all("agreement" in epoch for epoch in record["training"]["student"]["history"])
    manifest = bundle.read(run / "bundle").manifest
    assert not manifest.labelled
    assert all(row["acc"] is None for row in record["device_report"]["rows"])
    assert "not measured" in (run / "report.md").read_text()


@pytest.mark.slow
def test_with_a_test_set_and_a_control_and_after_a_kill(world: worlds.World, words, tmp_path: Path) -> None:
    more = (
        "--test",
        world.test,
        "--trigger",
        world.trigger,
        "--target-label",
        "0",
        "--max-asr",
        "2",
        "--controls",
        "kd",
    )
    whole = call(*words("--out", tmp_path / "whole", *more))
    assert whole.code == 1, whole.err
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    by_name = {row["stage"]: row for row in record["rows"]}
    assert by_name["teacher"]["acc"]["hits"] > 140
    assert by_name["kd"]["kind"] == "control"
    assert by_name["model.u8s8.onnx"]["triggers"][0]["asr"]["total"] == 125
    assert by_name["model.u8s8.onnx"]["triggers"][0]["floor"] is None
    assert "its floor was not measured" in record["gates"][0]["why"]
    assert "cannot be judged" in record["verdict"]
    (note,) = (text for text in by_name["student int8 simulated"]["notes"] if "teacher's answer on" in text)
    assert "of 1000 synthetic images" in note
    assert record["training"]["kd"]["method"]["source"].keys() == {"images", "suspicious", "classes"}
    broken = tmp_path / "broken"
    # two epochs of the control, two of the student, then in its retrospection
    killed = spawn(*words("--out", broken, *more), EDGEKD_FAULT="training.notes.before_rename:5:kill")
    assert killed.code == -signal.SIGKILL, killed.err
    assert (broken / "work" / "train-student" / "retrospection").exists()
    again = call(*words("--out", broken, *more))
    assert again.code == 1, again.err
    for name in ("student.safetensors", "bundle/model.u8s8.onnx", "bundle/manifest.json"):
        assert (broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_reference_gives_the_floor(world: worlds.World, words, tmp_path: Path) -> None:
    trusted = worlds.train(tmp_path / "trusted.pt", *worlds.pictures(480, 3))
    known = ("--test", world.test, "--trigger", world.trigger, "--target-label", "0", "--max-asr", "2")
    run = tmp_path / "run"
    ended = call(*words("--out", run, *known, "--reference", trusted))
    assert "cannot be met" not in ended.err
    record = json.loads((run / "run.json").read_text())
    by_name = {row["stage"]: row for row in record["rows"]}
    assert by_name["reference"]["kind"] == "control"
    floor = by_name["reference"]["triggers"][0]["asr"]
    assert floor["total"] == 125
    assert floor == by_name["model.u8s8.onnx"]["triggers"][0]["floor"] == by_name["teacher"]["triggers"][0]["floor"]
    assert by_name["teacher"]["triggers"][0]["asr"]["hits"] - floor["hits"] > 60
    (gate,) = record["gates"]
    shipped = by_name["model.u8s8.onnx"]["triggers"][0]
    assert gate["value"] == pytest.approx(100 * (shipped["asr"]["hits"] - floor["hits"]) / 125)
    assert ended.code == (0 if gate["value"] <= 2 else 1)
    assert record["teaching"] is not None
    assert record["config"]["reference"] == "trusted.pt"
    assert "nasty" not in " ".join(record["warnings"])
    ended = call(*words("--out", tmp_path / "other", *known, "--reference", world.teacher))
    assert ended.code == 2
    assert "--reference is the teacher itself" in ended.message()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--reference", "trusted.pt"), "measured on labelled images: give some as test"),
        (("--reference-arch", "resnet8"), "a reference, and no reference was given"),
        (("--source", "zsk"), "no image source 'zsk'. Did you mean 'zskt'"),
        (("--source", "patches:gone.jpg"), "no picture gone.jpg"),
        (("--source", "patches:"), "--source patches: names no picture"),
        (("-o", "audit.canaries=true"), "Public triggers are measured on labelled images"),
        (("-o", "train.augment=crop"), "train.augment does nothing without data"),
        (("--source", "zskt:photo.jpg"), "Only the source `patches` takes a picture: --source patches:photo.jpg"),
        (("--method", "robustkd"), "needs images with labels of their own"),
        (("--controls", "finetune"), "finetune needs labelled images"),
        (("--repair", "ft-sam"), "Repairs that need none: clp"),
        (("--trigger", "TRIGGER", "--target-label", "0"), "Give some with --test"),
        (("-o", "audit.adversarial=smoke"), "Give some with --test"),
        (("-o", "abd.vacine=false"), "did you mean 'abd.vaccine'?"),
        (("-o", "abd.retrospect.steps=0"), "The setting abd.retrospect.steps = 0 does not fit"),
        (("--method", "kdiga"), "with --data none give some with --test"),
        (("--method", "kdiga", "--dry-run"), "with --data none give some with --test"),
    ],
)
def test_what_does_not_go_together_is_said_at_once(world, words, tmp_path, more, said) -> None:
    asked = [str(world.trigger) if word == "TRIGGER" else word for word in more]
    ended = call(*words("--out", tmp_path / "run", *asked))
    assert ended.code == (3 if "kdiga" in more else 2)
    assert said in ended.message()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_source_needs_to_be_without_data(world: worlds.World, tmp_path: Path) -> None:
    ended = call("compress", str(world.teacher), "--data", str(world.train), "--source", "zskt")
    assert ended.code == 2
    assert "give --data none with it" in ended.err
    ended = call("compress", str(world.teacher), "--data", str(world.train), "--reference", str(world.teacher))
    assert ended.code == 2
    assert "with training images the scratch student gives the floor" in ended.message()
    ended = call("distill", str(world.teacher), "--data", "none", "--out", str(tmp_path / "run"))
    assert ended.code == 2
    assert "edgekd compress TEACHER --data none" in ended.err


def test_the_normalisation_cannot_be_guessed(words, tmp_path: Path) -> None:
    ended = call(*words("--out", tmp_path / "run", normalize=None))
    assert ended.code == 2
    assert "--normalize cifar10" in ended.err


def test_sources_are_listed_and_a_forecast_is_made(words) -> None:
    ended = call("list", "sources", "--json")
    assert [row["source"] for row in json.loads(ended.out)] == ["patches", "zskt", "cmi"]
    ended = call(*words("--dry-run", "--json", "--max-asr", "2"))
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out)["forecast"]
    assert any(text.startswith("The gate --max-asr cannot be met") for text in figures["warnings"])
    minutes = figures["minutes"]
    assert minutes["student"] > 0
    assert "disagreement" not in minutes
