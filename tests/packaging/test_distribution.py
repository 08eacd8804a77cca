"""One distribution, two import packages: what the wheel holds, and that it works from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgekd
import edgekd_device

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip would build it; hatchling is what pyproject.toml names."""
    build = pytest.importorskip("hatchling.build")
    folder, before = tmp_path_factory.mktemp("wheel"), Path.cwd()
    os.chdir(ROOT)
    try:
        return folder / build.build_wheel(str(folder))
    finally:
        os.chdir(before)


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"edgekd", "edgekd_device"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "edgekd").rglob("*.py")}
    assert sources <= set(names)
    assert "edgekd_device/runtime/ort.py" in names
    assert "edgekd = edgekd.__main__:main" in entry_points
    assert "edgekd-device = edgekd_device.__main__:main" in entry_points
    assert f"Version: {edgekd.__version__}" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_both_commands_run_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for module in ("edgekd", "edgekd_device"):
        # PYTHONPATH comes before anything installed
        ended = subprocess.run(
            [sys.executable, "-c", f"import {module}, runpy, sys; print({module}.__file__, file=sys.stderr); "
             f"sys.argv = ['x', '--version']; runpy.run_module('{module}', run_name='__main__')"],
            capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert str(tmp_path) in ended.stderr
        assert edgekd.__version__ in ended.stdout


def test_one_version_for_both() -> None:
    assert edgekd.__version__ == edgekd_device.__version__


def test_the_public_names_are_there() -> None:
    assert set(edgekd.__all__) == {"RunConfig", "__version__", "compress", "resolve"}
    for name in edgekd.__all__:
        assert getattr(edgekd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        edgekd.compres  # noqa: B018
