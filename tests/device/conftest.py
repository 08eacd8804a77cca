"""The tiny bundle of bundles.py as fixtures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bundles import write_bundle


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def tiny_bundle(pristine: Path, tmp_path: Path) -> Path:
    """A bundle that a test may spoil."""
    shutil.copytree(pristine, tmp_path / "bundle")
    return tmp_path / "bundle"
