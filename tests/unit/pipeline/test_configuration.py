"""The run's configuration: who wins, what is derived, what is refused (the table of bad ones is in tests/contract)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd import config
from edgekd.config import RunConfig, method_config, resolve, resolve_attack
from edgekd.distill import METHODS
from edgekd.errors import UsageError

BASE = {"teacher": "teacher.pt", "data": "data.npz"}


def test_fine_tuning_is_short_and_training_from_fresh_weights_is_not() -> None:
    def train(name: str, *overrides: str) -> tuple[int, float]:
        found = resolve_attack(None, {"attack.name": name, "data": "d.npz", "teacher": "clean.pt"}, overrides).train
        return found.epochs, found.lr

    assert train("blended") == train("nasty", "attack.fresh=false") == (4, 0.02)
    assert train("tact") == (8, 0.02), "an attack that needs longer is given it"
    assert train("nasty") == (10, 0.2), "--start is what it is driven away from, not what it starts from"


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "teacher: a.pt\ndata: images\nseed: 3\ntrain: {epochs: 5, lr: 1e-3}\ndistill: {method: kd, alpha: 0.5}\n"
    )
    found = resolve(
        file, {"teacher": "b.pt", "seed": None, "train.epochs": 6}, ["train.epochs=7", "distill.temperature=2"]
    )
    assert (found.teacher, found.data, found.seed) == ("b.pt", "images", 3)
    assert (found.train.epochs, found.train.lr) == (7, 0.001)
    assert found.method == "kd"
    assert found.options("kd")["alpha"] == 0.5
    assert found.options("kd")["temperature"] == 2


def test_a_control_shares_the_settings_of_what_the_method_builds_on() -> None:
    found = resolve(None, BASE, ["distill.beta=0.5", "distill.tau=0.1"])
    assert found.options("overhaul") == {**method_config("overhaul")().model_dump(), "beta": 0.5}
    assert found.options("kd") == method_config("kd")().model_dump()
    assert found.options("robustkd")["tau"] == 0.1


def test_a_profile_is_beaten_by_everything_else() -> None:
    assert resolve(None, BASE).train.epochs == config.PROFILES["fast"]["train"]["epochs"]
    assert resolve(None, {**BASE, "profile": "full"}).train.epochs == config.PROFILES["full"]["train"]["epochs"]
    assert resolve(None, {**BASE, "profile": "full"}, ["train.epochs=2"]).train.epochs == 2


def test_few_images_are_shown_more_often_unless_a_number_of_epochs_was_asked_for() -> None:
    train = resolve(None, BASE).train
    assert [train.of(images).epochs for images in (45_000, 10_000, 9_999, 2_500, 100, 1)] == [10, 10, 11, 40, 100, 100]
    assert resolve(None, BASE, ["train.epochs=3"]).train.of(100).epochs == 3
    both = resolve(None, BASE, ["train.epochs=3", "train.least_shown=1000"]).train
    assert (both.of(100).epochs, both.of(10).epochs, both.of(1000).epochs) == (10, 30, 3)
    assert resolve(None, {**BASE, "profile": "full"}).train.of(100).epochs == 200


def test_the_file_of_a_run_does_not_outvote_epochs_that_are_asked_for(tmp_path: Path) -> None:
    written = tmp_path / "config.yaml"
    written.write_text(json.dumps({**BASE, "train": resolve(None, BASE).train.model_dump(exclude={"seed", "device"})}))
    assert resolve(written, {}).train.of(2500).epochs == 40
    assert resolve(written, {}, ["train.epochs=20"]).train.of(2500).epochs == 20
    assert resolve(written, {}, ["train.epochs=20", "train.least_shown=100000"]).train.of(2500).epochs == 40


def test_a_source_has_a_length_of_its_own() -> None:
    blind = {"teacher": "a.pt", "data": "none", "source": {"name": "zskt"}}
    assert resolve(None, blind).train.of(1000).epochs == resolve(None, blind).train.epochs
    with pytest.raises(UsageError, match="needs images of your own"):
        resolve(None, blind, ["train.least_shown=60000"])


def test_a_method_may_be_one_word(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("teacher: a.pt\ndata: b\ndistill: kd\n")
    assert resolve(tmp_path / "run.yaml", {}).method == "kd"
    assert resolve(tmp_path / "run.yaml", {}, ["distill.temperature=2"]).options("kd")["temperature"] == 2
    assert resolve(tmp_path / "run.yaml", {"distill.method": "overhaul"}).method == "overhaul"


def test_scratch_is_always_a_control() -> None:
    assert resolve(None, {**BASE, "controls": ("kd",)}).controls == ("scratch", "kd")
    assert resolve(None, {**BASE, "controls": ("kd", "scratch")}).controls == ("kd", "scratch")


def test_seed_and_device_are_the_whole_runs() -> None:
    found = resolve(None, {**BASE, "seed": 5, "device": "cpu"})
    assert (found.train.seed, found.train.device) == (5, "cpu")
    for key, source in config.DERIVED.items():
        with pytest.raises(UsageError, match=f"set {source} instead"):
            resolve(None, BASE, [f"{key}=1"])


def test_the_images_that_set_the_scales_follow_the_seed_unless_set() -> None:
    assert resolve(None, BASE).quantize.seed == 0
    assert resolve(None, {**BASE, "seed": 7}).quantize.seed == 7
    assert resolve(None, {**BASE, "seed": 7}, ["quantize.images=64"]).quantize.seed == 7
    assert resolve(None, {**BASE, "seed": 7}, ["quantize.seed=0"]).quantize.seed == 0


def test_a_stored_configuration_gives_itself(tmp_path: Path) -> None:
    first = resolve(None, {**BASE, "seed": 5, "trigger.file": "t.npz", "trigger.source_labels": (1, 2)})
    (tmp_path / "config.yaml").write_text(json.dumps(first.model_dump(mode="json")))  # JSON is YAML
    assert resolve(tmp_path / "config.yaml", {}) == first


@pytest.mark.parametrize("missing", ["teacher", "data"])
def test_what_must_be_named(missing: str) -> None:
    with pytest.raises(UsageError, match=f"No {missing} was given"):
        resolve(None, {key: value for key, value in BASE.items() if key != missing})


def test_it_is_frozen_and_holds_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_SECRET", "hunter2")
    found = resolve(None, BASE)
    with pytest.raises(Exception, match="frozen"):
        found.seed = 1  # type: ignore[misc]
    with pytest.raises(UsageError, match="cannot use variables"):
        resolve(None, {**BASE, "student": "${oc.env:EDGEKD_SECRET}"})


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2, "b": 3}, ["a", "b"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["a.c"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a"]),
        ({"a": None}, {}, []),
    ],
)
def test_what_changed(before: dict[str, Any], after: dict[str, Any], keys: list[str]) -> None:
    assert config.changed(before, after) == keys


@pytest.mark.parametrize("part", ["the run", *METHODS])
def test_every_setting_says_what_it_is(part: str) -> None:
    found = config.settings(RunConfig if part == "the run" else method_config(part))
    assert [key for key, _, about in found if not about] == []


def test_every_setting_of_the_run_is_listed() -> None:
    listed = config.keys(RunConfig)
    assert {"train.epochs", "gates.max_asr", "trigger.file", "audit.canaries", "quantize.images"} <= set(listed)
    assert len(set(listed)) == len(listed)
