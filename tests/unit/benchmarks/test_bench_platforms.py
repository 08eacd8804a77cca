"""The bundle's package on other machines: the judgement, and the real thing where emulation or an interpreter is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import arm64_root, platforms
from benchmarks.grid import Config
from edgekd.errors import EnvironmentFault

HERE = np.array([[1.0, 0.0], [0.50005, 0.5], [0.2, 0.7]], np.float32)


@pytest.mark.parametrize(
    ("there", "differ", "beyond", "passed"),
    [
        (HERE, 0, 0, True),
        (np.array([[1.0, 0.0], [0.5, 0.50005], [0.2, 0.7]], np.float32), 1, 0, True),  # a tie
        (np.array([[1.0, 0.0], [0.50005, 0.5], [0.7, 0.2]], np.float32), 1, 1, False),
        (np.array([[1.0, 0.0], [0.50005, 0.5], [np.nan, 0.7]], np.float32), 1, 1, False),
    ],
    ids=["equal", "tie", "another label", "not finite"],
)
def test_labels_may_differ_at_ties_only(there: np.ndarray, differ: int, beyond: int, passed: bool) -> None:
    found = platforms.apart(HERE, there)
    assert (found["labels_differ"], found["beyond_ties"], found["passed"]) == (differ, beyond, passed)


def test_an_interpreter_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"There is no Python 3\.99 here"):
        platforms._interpreter("3.99")


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", list(platforms.cells()), ids=lambda config: f"{config['machine']}-{config['python']}"
)
def test_the_bundles_package_gives_the_same_labels(
    config: Config, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if config["machine"] == "aarch64":
        if why := arm64_root.missing():
            pytest.skip(why)
    else:
        try:
            platforms._interpreter(config["python"])
        except EnvironmentFault as error:
            pytest.skip(str(error))
    monkeypatch.setenv("EDGEKD_SHARED", str(shared))
    found = platforms.run({**config, "images": 20}, tmp_path)
    assert found["passed"], found
    assert found["platform"].startswith(f"{config['machine']} {config['python']}.")
