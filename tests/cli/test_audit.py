"""edgekd audit on real data: known triggers, canaries, what a defence did, what is left under attack."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from endings import Ended, call
from PIL import Image
from world import World

from edgekd.pipeline import intake


def test_audit_of_a_known_trigger(world: World, finished: tuple[Path, Ended]) -> None:
    words = ["audit", world.teacher, "--data", world.test, "--trigger", world.trigger, "--target-label", "0"]
    without = call(*words)
    assert without.code == 0, without.err
    assert "teacher.pt: resnet8-w8, ACC 100.0 % (150/150, " in without.out
    assert re.search(r"corner\s+100\.0 % \(125/125, .*not measured", without.out)
    assert "“Nothing found”" not in without.out
    assert "A trigger WORKS: corner succeeds on 100.0 %, 100.0 points above its untriggered rate." in without.out
    failed = call(*words, "--max-asr", "2")
    assert failed.code == 1
    assert "gate: ASR above floor ≤ 2 %: FAILED, 100 % is above the limit of 2" in failed.out
    assert call(*words, "--max-asr", "100").code == 0
    with_reference = call(*words, "--reference", finished[0] / "student.safetensors", "--json")
    assert "points above the reference." in with_reference.json["verdict"]
    assert with_reference.json["gates"] == []
    assert with_reference.json["passed"] is True
    score = with_reference.json["triggers"][0]
    assert score["asr"] == {"hits": 125, "total": 125}
    assert score["floor"]["total"] == 125
    assert score["floor"]["hits"] < 20
    assert with_reference.json["canaries"] is None


def test_the_reference_of_an_audit_is_a_network_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_teacher(config: Any, images: Any, real: Any = intake.load_teacher) -> Any:
        asked.append((Path(config.teacher).name, config.arch, config.normalize))
        return real(config, images)

    monkeypatch.setattr(intake, "load_teacher", load_teacher)
    words = ["audit", world.teacher, "--data", world.test, "--no-canaries", "--json"]
    words += ["--arch", "resnet8-w8", "--normalize", "half"]
    ended = call(*words, "--reference", world.teacher, "--reference-arch", "resnet8-w8")
    assert ended.code == 0, ended.err
    assert asked == [("teacher.pt", "resnet8-w8", "half"), ("teacher.pt", "resnet8-w8", "auto")]
    asked.clear()
    assert call(*words, "--reference", world.teacher).code == 0
    assert asked[1] == ("teacher.pt", None, "auto")
    wrong = call(*words, "--reference", world.teacher, "--reference-arch", "resnet18").message()
    assert "The model of --reference, teacher.pt: " in wrong
    assert "with --reference-arch" in wrong
    assert "was not given" in call(*words, "--reference-arch", "resnet18").message()


def test_audit_tells_what_a_defence_did(world: World, finished: tuple[Path, Ended]) -> None:
    student = finished[0] / "student.safetensors"
    words = ["audit", student, "--data", world.test, "--before", world.teacher]
    trigger = ["--trigger", world.trigger, "--target-label", "0"]
    told = call(*words, *trigger)
    assert told.code == 0, told.err
    assert "before: teacher.pt, ACC 100.0 % (150/150, " in told.out
    assert "0.5 is no effect" in told.out
    found = call(*words, *trigger, "--json").json
    before, after = found["before"]["triggers"][0], found["triggers"][0]
    assert before["asr"] == {"hits": 125, "total": 125}
    lost = max(0, 150 - found["acc"]["hits"]) / 150
    assert before["der"] == pytest.approx((1 - after["asr"]["hits"] / 125 - lost + 1) / 2)
    assert "Give the trigger with --trigger" in call(*words).message()
    wrong = call(*words, *trigger, "--before-arch", "resnet18").message()
    assert "The model of --before, teacher.pt: " in wrong
    assert "with --before-arch" in wrong


def test_audit_without_a_trigger_probes_canaries(world: World) -> None:
    ended = call("audit", world.teacher, "--data", world.test, "-o", "audit.canary_images=60", "--json")
    assert ended.code == 0, ended.err
    table = ended.json["canaries"]
    assert len(table["families"]) == 12
    assert table["images"] == 60
    assert ended.json["triggers"] == []


def test_audit_can_do_both_or_none(world: World) -> None:
    words = ["audit", world.teacher, "--data", world.test, "-o", "audit.canary_images=50", "--json"]
    known = ["--trigger", world.trigger, "--target-label", "0"]
    both = call(*words, *known, "--canaries").json
    assert both["canaries"] is not None
    assert both["triggers"]
    assert call(*words, "--no-canaries").json["canaries"] is None


def test_a_picture_as_a_trigger(world: World, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (5, 5), (255, 255, 255)).save(tmp_path / "white.png")
    words = ["audit", world.teacher, "--data", world.test, "--trigger", tmp_path / "white.png", "--target-label", "0"]
    assert "position" in call(*words).message()
    for place in ("bottom-right", "25,25"):
        ended = call(*words, "--trigger-position", place, "--json")
        assert ended.code == 0, ended.err
        assert ended.json["triggers"][0]["trigger"] == "white"
    assert "top-left" in call(*words, "--trigger-position", "corner").message()


def test_audit_under_attack(world: World, finished: tuple[Path, Ended]) -> None:
    student, file = finished[0] / "student.safetensors", finished[0] / "bundle" / "model.u8s8.onnx"
    words = ["audit", student, "--data", world.test, "--no-canaries", "--adversarial", "smoke", "--eps", "1/255"]
    words += ["-o", "audit.adversarial_images=24"]
    both = call(*words, "--onnx", file, "--json")
    assert both.code == 0, both.err
    own, copy, shipped = both.json["adversarial"]
    assert [table["name"] for table in (own, copy, shipped)] == [
        "student.safetensors", "straight-through copy of model.u8s8.onnx", "model.u8s8.onnx",
    ]  # fmt: skip
    assert own["bound"] == 1 / 255
    assert own["images"] == 24
    rows = {row["attack"]: row for row in shipped["attacks"]}
    assert rows.keys() >= {"examples of student.safetensors", f"examples of {copy['name']}", "Square"}
    assert shipped["robust"]["hits"] <= min(row["left"]["hits"] for row in rows.values())
    shown = call(*words)
    assert shown.code == 0, shown.err
    assert "Under attack: student.safetensors" in shown.out
    assert "l_inf ≤ 1/255, tier smoke, 24 images, seed 0: " in shown.out
    alone = call("audit", file, *words[2:], "--json").json["adversarial"]
    assert [table["name"] for table in alone] == [copy["name"], "model.u8s8.onnx"]


def test_mistakes_about_attacks_are_said(world: World) -> None:
    words = ["audit", world.teacher, "--data", world.test, "--no-canaries"]
    assert "--adversarial quick" in call(*words, "--onnx", world.trigger).message()
    assert "audit.adversarial = 'fast'" in call(*words, "--adversarial", "fast").message()
    for eps in ("8/25x", "8/0", "9", "0"):
        assert f"audit.eps = '{eps}' does not fit" in call(*words, "--adversarial", "smoke", "--eps", eps).message()


def test_a_finished_run_is_attacked_later(world: World, run_copy: Path) -> None:
    before = json.loads((run_copy / "run.json").read_text())
    words = world.words("--max-acc-drop", "99", out=run_copy)
    words += ["-o", "audit.adversarial=smoke", "-o", "audit.eps=2/255", "-o", "audit.adversarial_images=12"]
    ended = call(*words)
    assert ended.code == 0, ended.err
    record = json.loads((run_copy / "run.json").read_text())
    names = [table["name"] for table in record["adversarial"]]
    assert names == ["teacher", "student fp32", "straight-through copy of model.u8s8.onnx", "model.u8s8.onnx"]
    assert before["adversarial"] == []
    assert record["manifest_sha256"] == before["manifest_sha256"]
    assert "Accuracy under attack" in (run_copy / "report.html").read_text()
    gaps = [any("small changes" in gap for gap in found["not_tested"]) for found in (before, record)]
    assert gaps == [True, False]


def test_a_patch_is_found_and_used_as_a_trigger(world: World, tmp_path: Path) -> None:
    words = ["audit", world.teacher, "--data", world.test, "--no-canaries", "-o", "audit.inversion_steps=20"]
    ended = call(*words, "--invert", tmp_path / "found", "--json")
    assert ended.code == 0, ended.err
    table = ended.json["inversion"]
    assert [row["target"] for row in table["classes"]] == list(range(len(table["class_names"])))
    assert {file.name for file in (tmp_path / "found").iterdir()} == {"trigger.npz", "trigger.yaml", "patches.png"}
    with Image.open(tmp_path / "found" / "patches.png") as picture:
        assert picture.format == "PNG"
    used = call(*words, "--trigger", tmp_path / "found" / "trigger.yaml", "--json").json["triggers"]
    assert [(score["trigger"], score["origin"]) for score in used] == [("inverted", "inverted")]
    held = table["classes"][table["smallest"]]["success"]
    assert used[0]["asr"]["hits"] / used[0]["asr"]["total"] == pytest.approx(held["hits"] / held["total"], abs=0.2)


def test_what_was_found_is_shown_with_what_to_do_next(world: World, tmp_path: Path) -> None:
    words = ["audit", world.teacher, "--data", world.test, "--no-canaries", "-o", "audit.inversion_steps=20"]
    shown = call(*words, "--invert", tmp_path / "found")
    assert shown.code == 0, shown.err
    assert "Trigger inversion: " in shown.out
    assert re.search(r"\(ant\) +\d+\.\d px", shown.out)
    assert "Not tested: sample-specific and learned triggers." in shown.out
    (tmp_path / "file").write_text("")
    refused = call(*words, "--invert", tmp_path / "file")
    assert refused.code == 2
    assert "is a file" in refused.message()
