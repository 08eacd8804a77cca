"""Every module of the package stands on a floor, or a lower one could import it unseen (`lint-imports` does the rest)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def floors() -> dict[str, Any]:
    """The contract of the layers; 3.10 has no TOML in its standard library."""
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contract: dict[str, Any]
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return contract


def test_every_module_stands_on_a_floor(floors: dict[str, Any]) -> None:
    known = [name.strip() for floor in floors["layers"] for name in floor.replace("|", ":").split(":")]
    found = {
        path.stem for path in (ROOT / "edgekd").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert floors["exhaustive"] is True
    assert floors["containers"] == ["edgekd"]
    assert sorted(known) == sorted(found - {"__init__"})


def test_the_configuration_stands_above_what_it_imports(floors: dict[str, Any]) -> None:
    place = {name.strip(): height for height, floor in enumerate(floors["layers"]) for name in floor.split("|")}
    assert place["pipeline"] < place["config"] < min(place["distill"], place["quantize"], place["training"])
