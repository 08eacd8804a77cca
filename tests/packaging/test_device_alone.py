"""The device package stands alone: from the .pyz inside a bundle, on an old Python, with numpy or without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd_device

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    "edgekd_device." + str(path.relative_to(ROOT / "deploy" / "edgekd_device"))[:-3].replace("/", ".")
    for path in (ROOT / "deploy" / "edgekd_device").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
HEAVY = ("torch", "torchvision", "onnx", "edgekd", "typer", "rich", "pydantic")


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(ROOT / "tests" / "device"))
    try:
        from bundles import write_bundle
    finally:
        sys.path.pop(0)
    return write_bundle(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="session")
def old_python() -> str:
    """A Python 3.8, the oldest that the device package supports."""
    found = os.environ.get("EDGEKD_PYTHON38")
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [found, *map(str, sorted(versions.glob("3.8.*/bin/python3.8"))), shutil.which("python3.8")]
    for candidate in filter(None, candidates):
        if _run(candidate, "-c", "import sys; assert sys.version_info[:2] == (3, 8)").returncode == 0:
            return candidate
    pytest.skip("no Python 3.8 here; name one in EDGEKD_PYTHON38")


@pytest.fixture(scope="session")
def old_python_with_numpy(old_python: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    if _run(old_python, "-c", "import numpy").returncode == 0:
        return old_python
    folder = tmp_path_factory.mktemp("python38")
    made = _run(old_python, "-m", "venv", "--without-pip", str(folder))
    if made.returncode == 0:
        # by our own pip, as a second one takes longer to install than numpy
        packages = str(folder / "lib" / "python3.8" / "site-packages")
        install = ("install", "-q", "--only-binary=:all:", "--python-version", "3.8", "--target", packages, "numpy")
        made = _run(sys.executable, "-m", "pip", *install)
    if made.returncode != 0:
        pytest.skip("numpy does not install into a fresh Python 3.8 here")
    return str(folder / "bin" / "python")


def _run(python: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [python, *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False, **options
    )


def test_no_module_loads_anything_heavy():
    """One process for all, as each costs numpy's import; our own package is forgotten in between."""
    code = f"""
import importlib, sys
sys.path.insert(0, {str(ROOT / "deploy")!r})
for module in {MODULES!r}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "edgekd_device"]:
        del sys.modules[name]
    importlib.import_module(module)
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    assert not heavy, (module, heavy)
"""
    done = _run(sys.executable, "-c", code)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_info_needs_no_package_at_all(bundle_folder):
    for arguments in ([str(ROOT / "deploy")], [str(bundle_folder / "edgekd-device.pyz")]):
        # -S -E: no site-packages
        done = _run(sys.executable, "-S", "-E", *arguments, "info", str(bundle_folder))
        assert done.returncode == 0, done.stderr
        assert "model.u8s8.onnx" in done.stdout


def test_run_from_the_bundles_own_package(bundle_folder, tmp_path):
    package = bundle_folder / "edgekd-device.pyz"
    report = tmp_path / "report.json"
    done = _run(sys.executable, str(package), "run", str(bundle_folder), "--runtime", "null", "--out", str(report))
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["edgekd_version"] == edgekd_device.__version__
    assert _run(sys.executable, str(ROOT / "deploy"), "check", str(bundle_folder)).returncode == 0


def test_onnxruntime_leaves_nothing_in_the_home_folder(bundle_folder, tmp_path):
    """It would report its use over the network; the identifier that goes with it is what can be seen here."""
    home = tmp_path / "home"
    home.mkdir()
    package, model = bundle_folder / "edgekd-device.pyz", bundle_folder / "model.onnx"
    code = (
        f"import sys; sys.path.insert(0, {str(package)!r}); from edgekd_device.runtime import base; "
        f"runner = base.make('onnxruntime'); runner.open(open({str(model)!r}, 'rb').read(), 1); print(runner.version)"
    )
    around = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert list(home.rglob("*")) == []


def test_info_and_check_on_python_38_with_numpy_alone(bundle_folder, old_python_with_numpy, tmp_path):
    for entry in (str(bundle_folder / "edgekd-device.pyz"), str(ROOT / "deploy")):
        for command in ("info", "check"):
            done = _run(old_python_with_numpy, entry, command, str(bundle_folder), cwd=tmp_path)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout


def test_run_on_python_38_from_the_bundles_own_package(bundle_folder, old_python_with_numpy, tmp_path):
    report = tmp_path / "report.json"
    arguments = ["run", str(bundle_folder), "--runtime", "null", "--out", str(report)]
    done = _run(old_python_with_numpy, str(bundle_folder / "edgekd-device.pyz"), *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(report.read_text())["environment"]["python"].startswith("3.8.")


def test_python_38_imports_every_module(old_python_with_numpy):
    code = f"import sys, importlib; sys.path.insert(0, {str(ROOT / 'deploy')!r}); "
    code += f"[importlib.import_module(name) for name in {MODULES!r}]"
    done = _run(old_python_with_numpy, "-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_missing_on_python_38_is_one_line(bundle_folder, old_python):
    done = _run(old_python, str(bundle_folder / "edgekd-device.pyz"), "run", str(bundle_folder), "--level", "smoke")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "pip install" in done.stderr
