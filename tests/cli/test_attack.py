"""`edgekd attack`: what it writes is what the other commands read, and what it says of it is so."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from endings import call, spawn
from PIL import Image
from world import World

from edgekd import files

QUICK = ("-o", "train.epochs=2", "-o", "train.batch_size=32", "-o", "attack.size=5")


def test_a_teacher_its_trigger_and_what_was_measured(world: World, tmp_path: Path) -> None:
    out = tmp_path / "bad.safetensors"
    words = ["attack", "badnets", "--data", world.train, "--test", world.test, "--arch", "resnet8-w8", "--out", out]
    made = call(*words, *QUICK, "--json")
    assert made.code == 0, made.err
    record = made.json
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("bad.attack.json", "bad.gallery.png", "bad.safetensors", "bad.safetensors.json", "bad.trigger.yaml"),
    ]
    kept = files.read_json(tmp_path / "bad.attack.json")
    assert {key: value for key, value in record.items() if key != "files"} == kept
    train = len(np.load(world.train)["labels"])
    assert abs(len(kept["poisoned"]) - 0.1 * 0.9 * train) <= 1  # a tenth of the data is for validation
    assert str(tmp_path) not in (tmp_path / "bad.attack.json").read_text()
    with Image.open(tmp_path / "bad.gallery.png") as picture:
        assert picture.size == (9 * 32, 4 * 3 * 32)
    audited = call("audit", out, "--data", world.test, "--trigger", tmp_path / "bad.trigger.yaml", "--json").json
    assert audited["acc"] == kept["acc"]
    assert audited["triggers"][0]["asr"] == kept["trigger"]["asr"]
    assert audited["triggers"][0]["trigger"] == "badnets"
    refused = call(*words, *QUICK)
    assert refused.code == 2
    assert "already exists. Choose another file with --out" in refused.message()
    again = call(*words[:-1], tmp_path / "again.safetensors", *QUICK, "--json").json
    assert again["weights_sha256"] == kept["weights_sha256"]


def test_training_on_from_a_network_that_is_there(world: World, tmp_path: Path) -> None:
    out = tmp_path / "bad.safetensors"
    words = ["attack", "badnets", "--data", world.train, "--test", world.test, "--start", world.teacher, "--out", out]
    made = call(*words, "--trigger-rule", "all-to-all", *QUICK, "-o", "train.epochs=1", "-o", "train.lr=2")
    assert made.code == 0, made.err
    assert "on the network it started from" in made.out
    assert f"next: edgekd audit {out} --data {world.test} --trigger {tmp_path / 'bad.trigger.yaml'}" in made.out
    record = files.read_json(tmp_path / "bad.attack.json")
    assert record["spec"]["arch"] == "resnet8-w8"
    assert record["config"]["goal"] == {"target_label": None, "rule": "all-to-all", "source_labels": []}
    assert record["trigger"]["floor"] is not None
    assert record["start_sha256"]
    assert record["start_acc"]["hits"] == record["start_acc"]["total"]
    lost = 100 * (1 - record["acc"]["hits"] / record["acc"]["total"])
    assert lost > 2
    assert f"ACC is {lost:.1f} points below the clean network's" in made.out
    assert ", without the trigger " in made.out
    assert "RA " in made.out


def test_a_network_that_has_learnt_nothing_is_no_attack(world: World, tmp_path: Path) -> None:
    """Its ASR may be anything: it gives one label to every image, with the trigger and without."""
    words = ["attack", "badnets", "--data", world.train, "--test", world.test, *QUICK, "-o", "train.lr=0.000001"]
    made = call(*words, "--arch", "resnet8-w8", "--out", tmp_path / "a.safetensors")
    assert made.code == 0, made.err
    assert "warning: ACC may be chance" in made.out
    clean = call(*words, "--start", world.teacher, "--out", tmp_path / "b.safetensors")
    assert clean.code == 0, clean.err
    assert "warning: The trigger does little" in clean.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["badnet"], "There is no attack 'badnet'. Did you mean 'badnets'?"),
        (["badnets", "--out", "teacher.pt"], "must end in .safetensors"),
        (["badnets", "-o", "attack.sise=3"], "There is no setting 'attack.sise' (did you mean 'attack.size'?)"),
        (["badnets", "-o", "train.epoch=3"], "did you mean 'train.epochs'?"),
        (["badnets", "--target-label", "77"], "target label 77 is out of range"),
        (["tact"], "--source-label"),
        (["badnets", "-o", "attack.size=99"], "does not fit into images"),
        (["blended", "-o", "attack.picture=kitty"], "expected one of clouds"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call("attack", *words, "--data", world.train, "--test", world.test)
    assert ended.code == 2
    assert said in ended.message()
    assert not list(tmp_path.iterdir())


def test_a_folder_of_somebody_elses_stays_and_a_killed_attack_goes_on(world: World, tmp_path: Path) -> None:
    out, work = tmp_path / "bad.safetensors", tmp_path / "bad.work"
    words = ["attack", "badnets", "--data", world.train, "--test", world.test, "--arch", "resnet8-w8", "--out", out]
    for name in ("precious.txt", "checkpoint-1.json", ".edgekd-run"):
        work.mkdir()
        (work / name).write_text("mine")
        refused = call(*words, *QUICK)
        assert refused.code == 2
        assert f"not an attack's folder (it holds {name})" in refused.message()
        assert [path.name for path in tmp_path.rglob("*")] == ["bad.work", name]
        (work / name).unlink()
        work.rmdir()
    for point in ("mark.before_rename", "training.notes.after_rename"):
        assert spawn(*words, *QUICK, EDGEKD_FAULT=f"{point}:1:kill").code == -signal.SIGKILL
    made = call(*words, *QUICK, "--json")
    assert made.code == 0, made.err
    assert made.json["training"]["resumed_at"] == 1
    assert not work.exists()
