"""NVIDIA's libraries for the tests of this folder, whose scripts import one another by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import student_files


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return student_files.libraries(tmp_path_factory.mktemp("rtx"))
