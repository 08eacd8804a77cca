"""Teachers that a method refuses, and those that a run warns of, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from endings import call
from world import SHORT, World

from edgekd import files
from edgekd.config import resolve
from edgekd.pipeline import vetting

KDIGA = (*(word for word in SHORT if not word.startswith("distill.")), "distill.method=kdiga", "bench.level=none")


def words(world: World, out: Path, *more: str) -> list[str]:
    return world.words(*more, out=out, short=KDIGA)


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("-o", setting)]


def test_a_teacher_that_failed_its_audit_is_refused(world: World, tmp_path: Path) -> None:
    ended = call(*words(world, tmp_path / "run", "-o", "audit.canary_images=50"))
    assert ended.code == 3
    said = ended.message()
    assert "audit of this teacher found that a trigger works on it: corner" in said
    assert "In a new folder (--out)" in said
    assert "--method robustkd-plus" in said
    work = tmp_path / "run" / "work"
    assert (work / "canaries").is_dir(), "it was tried with public triggers beside the given one"
    assert sorted(path.name for path in work.glob("train-*")) == ["train-scratch"], "before anything else is trained"


def test_a_repair_that_repaired_nothing_is_found_out_by_public_triggers_alone(world: World, tmp_path: Path) -> None:
    data, teacher = ("--data", world.train, "--test", world.test, "--quiet"), tmp_path / "blended.safetensors"
    long = ("train.epochs=5", "train.lr=0.05", "train.batch_size=32", "train.augment=none", "attack.rate=0.2")
    made = call("attack", "blended", "--start", world.teacher, "--out", teacher, *data, *options(*long))
    assert made.code == 0, made.err
    nothing = ("repair.method=clp", "repair.u=1000", "audit.canary_images=50")
    ended = call("compress", teacher, "--out", tmp_path / "run", *data, *options(*KDIGA, *nothing))
    assert ended.code == 3, ended.err
    assert "the audit of this teacher found that a trigger works on it" in ended.message()
    done = files.read_json(tmp_path / "run" / "work" / "canaries-repaired" / "done.json")
    flagged = [row["trigger"] for row in done["result"]["table"]["flagged"]]
    assert any(name in ended.message() for name in flagged)


@pytest.mark.slow
def test_a_trusted_teacher_is_learnt_from_and_one_that_passed(world: World, tmp_path: Path) -> None:
    trusted = call(*words(world, tmp_path / "trusted", "-o", "distill.trust_teacher=true"))
    assert trusted.code == 0, trusted.err
    record = files.read_json(tmp_path / "trusted" / "run.json")
    assert record["training"]["kdiga"]["method"]["slopes"]
    assert record["canaries"] is None
    assert record["teaching"]["images"] == 150
    clean = scratch(world, tmp_path)
    run = ("--data", world.train, "--test", world.test, "--out", tmp_path / "run", *options(*KDIGA))
    ended = call("compress", clean, *run)
    assert ended.code == 0, ended.err
    record = files.read_json(tmp_path / "run" / "run.json")
    assert record["canaries"]["flagged"] == []
    assert record["config"]["distill"]["trust_teacher"] is False


def test_without_an_audit_it_is_refused_at_once(world: World, tmp_path: Path) -> None:
    for command in (
        words(world, tmp_path / "run", "-o", "audit.canaries=false"),
        words(world, tmp_path / "run", "-o", "audit.canaries=false", "--dry-run"),
        ["distill", world.teacher, "--data", world.train, "--method", "igdm", "--out", tmp_path / "run"],
    ):
        ended = call(*command)
        assert ended.code == 3
        assert "refuses a teacher that was not audited" in ended.message()
        assert not (tmp_path / "run").exists()
    trusted = ["-o", "distill.trust_teacher=true", "-o", "train.epochs=1", "--student", "resnet8-w4", "--quiet"]
    ended = call(
        "distill", world.teacher, "--data", world.train, "--method", "igdm", "--out", tmp_path / "run", *trusted
    )
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("method", "given", "runs"),
    [
        ("kd", {}, True),
        ("kd", {"trigger.file": "a.npz"}, False),
        ("kdiga", {"trigger.file": "a.npz"}, True),
        ("kdiga", {"trigger.file": "a.npz", "distill.trust_teacher": True}, False),
        ("kdiga", {"audit.canaries": False}, False),
        ("kd", {"trigger.file": "a.npz", "audit.canaries": True}, True),
        ("kdiga", {"data": "none", "source": "zskt"}, False),
        ("kdiga", {"data": "none", "source": "zskt", "test": "t.npz"}, True),
    ],
)
def test_when_public_triggers_are_tried(method: str, given: dict[str, object], runs: bool) -> None:
    config = resolve(None, {"teacher": "t.pt", "data": "d.npz", "distill.method": method, **given})
    assert vetting.runs_battery(config) is runs


def test_a_forecast_takes_a_few_steps_from_any_teacher(world: World, tmp_path: Path) -> None:
    ended = call(*words(world, tmp_path / "run", "--dry-run", "--json"))
    assert ended.code == 0, ended.err
    minutes = ended.json["forecast"]["minutes"]
    assert minutes["kdiga"] > 0
    assert minutes["canary battery"] > 0


def scratch(world: World, folder: Path) -> Path:
    """A clean network, trained through the command line."""
    quick = ("-o", "train.epochs=6", "-o", "train.batch_size=32", "--student", "resnet8-w8", "--quiet")
    ended = call(
        "distill", world.teacher, "--data", world.train, "--method", "scratch", "--out", folder / "scratch", *quick
    )
    assert ended.code == 0, ended.err
    return folder / "scratch" / "student.safetensors"


def nasty(world: World, out: Path, *more: str) -> list[object]:
    quick = ("-o", "train.batch_size=32", "-o", "attack.fresh=false")
    return ["attack", "nasty", "--data", world.train, "--test", world.test, "--out", out, *quick, "--quiet", *more]


def test_a_nasty_teacher_is_made_and_held_against_a_reference(world: World, tmp_path: Path) -> None:
    out = tmp_path / "nasty.safetensors"
    assert "Name the normal one with --start" in call(*nasty(world, out)).message()
    refused = call(*nasty(world, out, "--start", str(world.teacher), "--target-label", "1"))
    assert (refused.code, "has no trigger" in refused.message()) == (2, True)
    ended = call(*nasty(world, out, "--start", str(world.teacher), "-o", "train.epochs=1"))
    assert ended.code == 0, ended.err
    assert "Beside the label, its outputs correlate with the reference's by" in ended.out
    assert f"next: edgekd audit {out} --data {world.test} --reference" in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("nasty.attack.json", "nasty.safetensors", "nasty.safetensors.json"),
    ]
    record = files.read_json(tmp_path / "nasty.attack.json")
    assert record["acc"]["hits"] > 0.9 * record["start_acc"]["hits"]
    lost = (record["start_acc"]["hits"] - record["acc"]["hits"]) / 150
    assert ("warning: It lost" in ended.out) is (lost > 0.02)
    assert str(tmp_path) not in (tmp_path / "nasty.attack.json").read_text()
    against = ("--data", world.test, "--reference", world.teacher, "--no-canaries")
    audited = call("audit", out, *against, "--json").json
    assert audited["teaching"] == record["teaching"]
    assert "nothing suspicious" in call("audit", out, *against).out
    assert call("audit", out, "--data", world.test, "--no-canaries", "--json").json["teaching"] is None


@pytest.mark.slow
def test_a_run_warns_of_a_nasty_teacher(world: World, tmp_path: Path) -> None:
    out = tmp_path / "nasty.safetensors"
    long = ("-o", "train.epochs=14", "-o", "attack.weight=0.2", "-o", "train.lr=0.03")
    ended = call(*nasty(world, out, "--start", str(scratch(world, tmp_path)), *long))
    assert ended.code == 0, ended.err
    assert "SUSPICIOUS" in ended.out
    short = (*(word for word in SHORT if not word.startswith(("distill.", "train.epochs"))), "train.epochs=8")
    settings = (*short, "distill.method=kd", "bench.level=none", "audit.canaries=false")
    run = ["compress", out, "--data", world.train, "--test", world.test, "--out", tmp_path / "run", "--quiet"]
    ended = call(*run, *options(*settings))
    assert ended.code == 0, ended.err
    report = files.read_json(tmp_path / "run" / "run.json")
    assert report["teaching"]["suspicious"] is True
    assert any("nasty teacher" in warning for warning in report["warnings"])
    for page in ("report.md", "report.html"):
        assert "What a student can learn from its outputs" in (tmp_path / "run" / page).read_text("utf-8")
