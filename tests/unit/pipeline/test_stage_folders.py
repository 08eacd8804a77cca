"""Stages of a run folder: done once, known again by their inputs, made anew when a file is not whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from edgekd import config
from edgekd.errors import EnvironmentFault, UnsafeInput, UsageError
from edgekd.pipeline import folder as folders
from edgekd.pipeline.folder import RunFolder


def settings(**changes: Any) -> config.RunConfig:
    return config.resolve(None, {"teacher": "teacher.pt", "data": "data.npz", **changes})


class Work:
    """A stage that counts how often it was done."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.done += 1
        (folder / "product").write_text("made of care")
        return {"files": ["product"], "number": 7}


def stage(path: Path, work: Work, inputs: dict[str, Any]) -> dict[str, Any]:
    with RunFolder(path).open(settings()) as run:
        run.claim()
        return run.stage("weave", inputs, work)


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    work = Work()
    first = stage(tmp_path, work, {"wool": "a"})
    assert stage(tmp_path, work, {"wool": "a"}) == first == {"files": ["product"], "number": 7}
    assert work.done == 1


def test_other_inputs_are_other_work_from_an_empty_folder(tmp_path: Path) -> None:
    work = Work()
    stage(tmp_path, work, {"wool": "a"})
    (tmp_path / "work" / "weave" / "rest").write_text("of the first")
    stage(tmp_path, work, {"wool": "b"})
    assert work.done == 2
    assert not (tmp_path / "work" / "weave" / "rest").exists()


def test_stages_of_different_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder(tmp_path).open(settings()) as run:
        run.claim()
        monkeypatch.setattr(folders, "commit", lambda: "aaaa")
        run.stage("spin", {}, Work())
        assert run.mixed() == []
    with RunFolder(tmp_path).open(settings()) as run:
        monkeypatch.setattr(folders, "commit", lambda: "bbbb-dirty")
        run.stage("spin", {}, Work())
        run.stage("weave", {}, Work())
        (warning,) = run.mixed()
        assert "(aaaa: spin; bbbb-dirty: weave)" in warning


@pytest.mark.parametrize("name", ["product", "done.json"])
@pytest.mark.parametrize("damage", [b"", b"torn", b"[]", None])
def test_what_is_not_whole_is_made_again(tmp_path: Path, name: str, damage: bytes | None) -> None:
    work = Work()
    stage(tmp_path, work, {})
    file = tmp_path / "work" / "weave" / name
    file.unlink() if damage is None else file.write_bytes(damage)
    assert stage(tmp_path, work, {})["number"] == 7
    assert work.done == 2


def test_an_unfinished_stage_finds_its_folder_as_it_left_it(tmp_path: Path) -> None:
    def broken(folder: Path) -> dict[str, Any]:
        (folder / "checkpoint").write_text("half")
        raise EnvironmentFault("the disk is full")

    with pytest.raises(EnvironmentFault):
        stage(tmp_path, broken, {})  # type: ignore[arg-type]
    work = Work()
    stage(tmp_path, work, {})
    assert (tmp_path / "work" / "weave" / "checkpoint").read_text() == "half"
    (tmp_path / "work" / "weave" / "key.json").write_text("{")
    (tmp_path / "work" / "weave" / "done.json").unlink()
    stage(tmp_path, work, {})
    assert not (tmp_path / "work" / "weave" / "checkpoint").exists()  # nobody knows what it was made from


def test_leftovers_of_a_killed_write_are_swept(tmp_path: Path) -> None:
    stage(tmp_path, Work(), {})
    (tmp_path / "work" / ".product.x1.part").write_text("half")
    stage(tmp_path, Work(), {})
    assert not list(tmp_path.rglob("*.part"))


def refused(path: Path, mistake: type[Exception], *, claim: bool) -> None:
    """A run that ends in a mistake after its first stage."""
    with RunFolder(path).open(settings()) as run:
        run.stage("weave", {}, Work())
        if claim:
            run.claim()
        raise mistake("not this one")


@pytest.mark.parametrize("mistake", [UsageError, UnsafeInput])
def test_before_the_claim_a_mistake_leaves_nothing(tmp_path: Path, mistake: type[Exception]) -> None:
    with pytest.raises(mistake):
        refused(tmp_path / "deep" / "run", mistake, claim=False)
    assert list(tmp_path.iterdir()) == []


def test_after_the_claim_work_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        refused(tmp_path, UsageError, claim=True)
    work = Work()
    stage(tmp_path, work, {})
    assert work.done == 0


def test_a_full_disk_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(EnvironmentFault, match="are free under"), RunFolder(tmp_path).open(settings()):
        pass


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "other settings: seed\\."),
        ({"train.epochs": 3, "student": "resnet8"}, "other settings: student, train.epochs"),
        ({"distill.method": "kd"}, "distill.method"),
        ({"teacher": "other.pt"}, "other settings: teacher"),
        ({"trigger.file": "patch.npz"}, "other settings: trigger.file"),
    ],
)
def test_another_configuration_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    stage(tmp_path, Work(), {})
    with pytest.raises(UsageError, match=named), RunFolder(tmp_path).open(settings(**changes)):
        pass


@pytest.mark.parametrize(
    "changes", [{"gates.max_asr": 2}, {"bench.level": "none"}, {"bench.threads": 2}, {"teacher": "./x/../teacher.pt"}]
)
def test_limits_bench_and_spelling_of_paths_may_differ(tmp_path: Path, changes: dict[str, Any]) -> None:
    stage(tmp_path, Work(), {})
    with RunFolder(tmp_path).open(settings(**changes)) as run:
        run.claim()


def test_a_folder_of_somebody_elses_is_refused_and_not_touched(tmp_path):
    kept = [tmp_path / "mine.txt", tmp_path / ".photo.part", tmp_path / "sub" / ".important.part"]
    for file in kept:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"holds \.photo\.part, mine\.txt, sub"), RunFolder(tmp_path).open(settings()):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_only_a_runs_own_leftovers_are_deleted(tmp_path):
    with RunFolder(tmp_path).open(settings()) as run:
        run.claim()
    neighbour, own = tmp_path / "other" / ".model.abc.part", tmp_path / "work" / "train" / ".model.abc.part"
    for file in (neighbour, own):
        file.parent.mkdir(parents=True)
        file.write_text("half")
    with RunFolder(tmp_path).open(settings()):
        pass
    assert (neighbour.exists(), own.exists()) == (True, False)


def test_a_folder_from_before_there_was_a_setting_goes_on_where_it_stands_at_its_default(tmp_path: Path) -> None:
    stage(tmp_path, Work(), {})
    file = tmp_path / "config.yaml"
    stored = OmegaConf.load(file)
    for section, name in ((stored.quantize, "qad"), (stored.quantize, "guard"), (stored, "seed")):
        del section[name]
    OmegaConf.save(stored, file)
    work = Work()
    stage(tmp_path, work, {})
    assert work.done == 0
    OmegaConf.save(stored, file)
    other = settings(**{"quantize.qad.when": "off", "seed": 1})
    with (
        pytest.raises(UsageError, match=r"other settings: quantize\.qad\.when, seed\."),
        RunFolder(tmp_path).open(other),
    ):
        pass
