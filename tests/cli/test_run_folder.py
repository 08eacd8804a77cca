"""A run's folder: what it holds, that it is kept, continued and refused as the documentation says."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from endings import Ended, call, spawn
from world import CLASSES, SHORT, World

from edgekd import files
from edgekd.cli.compress import as_typed

OUTPUTS = {"config.yaml", "run.json", "metrics.jsonl", "run.log", "student.safetensors", "student.safetensors.json"}
OUTPUTS |= {"report.html", "report.md", "bundle", "work", ".lock", ".edgekd-run"}
BUNDLE = {"manifest.json", "probe.npz", "edgekd-device.pyz", "model.onnx", "model.u8s8.onnx"}


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file whose bytes may not change when the same command is given again."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "report.html", "report.md", ".lock")
    }


def test_the_folder_holds_what_the_documentation_says(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == OUTPUTS
    assert {path.name for path in (folder / "bundle").iterdir()} == BUNDLE
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(entry["training"], entry["epoch"]) for entry in epochs] == [
        ("scratch", 1), ("scratch", 2), ("robustkd", 1), ("robustkd", 2)
    ]  # fmt: skip
    log = (folder / "run.log").read_text()
    assert log.count(" begins") == log.count(" ends after ") > 10


def test_the_record_tells_the_whole_story(finished: tuple[Path, Ended], world: World) -> None:
    folder, ended = finished
    record = json.loads((folder / "run.json").read_text())
    rows = {row["stage"]: row for row in record["rows"]}
    assert list(rows) == [
        "teacher", "scratch", "student fp32", "student int8 simulated", "model.onnx", "model.u8s8.onnx"
    ]  # fmt: skip
    assert rows["teacher"]["acc"] == {"hits": 150, "total": 150}
    assert rows["teacher"]["triggers"][0]["asr"] == {"hits": 125, "total": 125}
    assert rows["teacher"]["triggers"][0]["floor"] == rows["scratch"]["triggers"][0]["asr"]
    assert rows["model.u8s8.onnx"]["latency"]["p50_ms"] > 0
    assert rows["model.u8s8.onnx"]["agreement"] == {"hits": 150, "total": 150}, "measured here as by the host"
    assert rows["model.u8s8.onnx"]["sha256"] == files.sha256_file(folder / "bundle" / "model.u8s8.onnx")
    assert record["manifest_sha256"] == files.sha256_file(folder / "bundle" / "manifest.json")
    assert record["gates"] == [
        {"name": "ACC drop", "unit": "points", "limit": 99.0, "passed": True, "why": "",
         "value": record["gates"][0]["value"]}
    ]  # fmt: skip
    assert record["verdict"].startswith("The student that ships (model.u8s8.onnx) has ACC ")
    assert record["data"]["test"]["images"] == 150
    assert record["disagreement"]["total"] == 480, "training and validation images"
    assert record["classes"]["stages"] == ["teacher", "student fp32", "model.u8s8.onnx"]
    right = [sum(counts) for counts in record["classes"]["right"]]
    assert right == [rows[stage]["acc"]["hits"] for stage in record["classes"]["stages"]]
    assert record["teacher"]["layout"] == ["net"]
    assert f"manifest  sha256 {record['manifest_sha256']}" in ended.out
    package = files.sha256_file(folder / "bundle" / "edgekd-device.pyz")
    assert f"package   sha256 {package}" in ended.out, "so that a board need not trust what came with the bundle"
    assert record["verdict"] in ended.out


def test_no_record_and_no_artefact_names_a_place_of_this_machine(finished: tuple[Path, Ended], world: World) -> None:
    folder, _ = finished
    places = [os.fsencode(part) for part in (world.folder, folder.parent, Path.home()) if str(part) != "/"]
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "config.yaml" and "work" not in path.relative_to(folder).parts:
            data = path.read_bytes()
            assert not any(place in data for place in places), path.name


def test_the_runs_method_distils_the_repaired_teacher_and_controls_the_one_that_came(
    world: World, tmp_path: Path
) -> None:
    words = world.words("--repair", "clp", "-o", "repair.u=1", "--bench", "none", out=tmp_path, short=SHORT[:4])
    ended = call(*words, "--method", "kd", "--controls", "kd", "--json")
    assert ended.code == 0, ended.err
    rows = {row["stage"]: row for row in ended.json["rows"]}
    assert list(rows)[:5] == ["teacher", "repaired teacher", "scratch", "kd", "student fp32"]
    assert rows["repaired teacher"]["sha256"] != rows["teacher"]["sha256"]
    assert rows["repaired teacher"]["flips"]["hits"] > 0
    assert rows["kd"]["sha256"] != rows["student fp32"]["sha256"]
    assert ended.json["student"]["repair"] == "clp"
    assert ended.json["training"].keys() == {"scratch", "repair-clp", "kd", "kd-repaired"}
    page = (tmp_path / "report.md").read_text()
    assert "repaired teacher" in page
    refused = call(*words, "--method", "kd", "--controls", "kd", "-o", "repair.u=2")
    assert "repair.u" in refused.message()


def test_the_same_command_does_nothing_again(run_copy: Path, world: World) -> None:
    before = contents(run_copy)
    again = call(*world.words("--max-acc-drop", "99", out=run_copy))
    assert again.code == 0, again.err
    assert contents(run_copy) == before  # run.log too: no stage began


def test_the_same_files_by_another_path_are_the_same_run(run_copy: Path, world: World, tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(world.teacher)
    words = world.words("--max-acc-drop", "99", out=run_copy)
    words[1] = os.path.relpath(tmp_path / "link.pt")
    assert call(*words).code == 0


def test_another_setting_is_refused_by_name(run_copy: Path, world: World) -> None:
    before = contents(run_copy)
    refused = call(*world.words("-o", "train.epochs=3", out=run_copy))
    assert refused.code == 2
    assert "other settings: train.epochs." in refused.message()
    assert call(*world.words("--seed", "1", out=run_copy)).message().count("seed") == 1
    assert contents(run_copy) == before


def test_limits_and_bench_may_change(run_copy: Path, world: World) -> None:
    limits = ["--max-acc-drop", "98", "--max-latency-ms", "5"]
    ended = call(*world.words(*limits, "--bench", "none", out=run_copy))
    assert ended.code == 1
    assert "gate: ACC drop ≤ 98 points: " in ended.out
    assert "gate: latency p50 ≤ 5 ms: FAILED" in ended.out
    record = json.loads((run_copy / "run.json").read_text())
    assert record["device_report"] is None
    assert record["rows"][-1]["stage"] == "model.u8s8.onnx"  # the host's own figures stand in
    assert record["rows"][-1]["latency"] is None


def test_a_damaged_artefact_is_made_again(run_copy: Path, world: World) -> None:
    whole = contents(run_copy)
    (run_copy / "bundle" / "model.onnx").write_bytes(b"damaged")
    (run_copy / "student.safetensors").unlink()
    assert call(*world.words("--max-acc-drop", "99", out=run_copy)).code == 0
    changed = {name for name, digest in contents(run_copy).items() if whole[name] != digest}
    assert changed <= {"run.log", "work/bundle/done.json"}


def test_a_second_process_is_told_of_the_first(run_copy: Path, world: World) -> None:
    (run_copy / ".lock").unlink()
    with files.lock(run_copy):
        for refused in (call(*world.words("--max-acc-drop", "99", out=run_copy)), spawn("report", run_copy)):
            assert refused.code == 4
            assert f"in use by process {os.getpid()}" in refused.message()


def test_a_refused_run_leaves_nothing_and_takes_nothing(short: Callable[..., list[str]], tmp_path: Path) -> None:
    new, own = tmp_path / "some" / "new", tmp_path / "own"
    own.mkdir()
    (own / "notes.txt").write_text("mine")
    for folder in (new, own):
        assert call(*short("--out", folder, "--target-label", "0", "--trigger", tmp_path / "absent.npz")).code == 2
    assert not (tmp_path / "some").exists()
    assert {path.name for path in own.iterdir()} <= {"notes.txt", ".lock"}


def test_after_a_refusal_the_folder_is_free_for_other_settings(world: World, tmp_path: Path) -> None:
    words = ["--out", str(tmp_path / "run"), "--quiet"]
    assert call("distill", world.teacher, "--data", tmp_path / "absent", *words).code == 2
    right = ["--method", "kd", "--student", "resnet8-w4", "-o", "train.epochs=1", "-o", "train.batch_size=64"]
    ended = call("distill", world.teacher, "--data", world.train, *right, *words)
    assert ended.code == 0, ended.err
    assert re.search(r"resnet8-w4, validation ACC \d+\.\d % \(\d+/48\)", ended.out)


def test_the_bundle_knows_the_classes(finished: tuple[Path, Ended]) -> None:
    manifest = json.loads((finished[0] / "bundle" / "manifest.json").read_text())
    assert tuple(manifest["class_names"]) == CLASSES


def test_a_stored_configuration_is_a_configuration(run_copy: Path, tmp_path: Path) -> None:
    ended = call("compress", "-c", run_copy / "config.yaml", "--out", run_copy, "--quiet")
    assert ended.code == 0, ended.err
    shutil.copy(run_copy / "config.yaml", tmp_path / "other.yaml")
    refused = call("compress", "-c", tmp_path / "other.yaml", "--out", run_copy, "--student", "resnet8-w6")
    assert "other settings: student" in refused.message()


def test_the_command_line_is_in_the_record_without_its_paths(finished: tuple[Path, Ended]) -> None:
    record = json.loads((finished[0] / "run.json").read_text())
    assert record["command"].startswith(
        "edgekd compress teacher.pt --data train.npz --test test.npz --trigger corner.npz"
    )


@pytest.mark.parametrize(
    ("word", "recorded"),
    [
        ("/home/ann/my secret/train", "train"),
        ("--data=/home/ann/secret/train", "--data=train"),
        ("--data=/home/ann/a=/secret/train/", "--data=train"),
        ("test=/home/ann/x.npz", "test=x.npz"),
        ("-otest=/home/ann/x.npz", "-otest=x.npz"),
        ("-c/home/ann/run.yaml", "-crun.yaml"),
        ("trigger={file: /home/ann/x.npz, rule: source}", "trigger={file: x.npz, rule: source}"),
        ("trigger.file='/home/ann/x.npz'", "trigger.file='x.npz'"),
        ("images/train", "images/train"),
        ("--data=images/train", "--data=images/train"),
        ("0.5,0.5,0.5/0.25,0.25,0.25", "0.5,0.5,0.5/0.25,0.25,0.25"),
        ("mine:small", "mine:small"),
    ],
)
def test_no_absolute_path_reaches_the_record_however_it_is_typed(word: str, recorded: str) -> None:
    context = SimpleNamespace(obj=["compress", word])
    assert as_typed(cast(Any, context)) == shlex.join(["edgekd", "compress", recorded])
