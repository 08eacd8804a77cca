"""The bundle's own package where a board would run it: on 64-bit Arm under emulation, and on other Pythons.

    python -m benchmarks.platforms      Arm needs root, debootstrap and qemu-user-static; Pythons are looked for in pyenv

A trained third-party network goes into a bundle with real test images. `info` runs on the standard library alone,
`run` with onnxruntime, and the label of every probe image is held against the host's. Two labels may differ if the
host's logits for them are closer than 1e-4. Emulation is a few hundred times slower than a board: this shows that it
works, not how fast.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import arm64_root, prepare_data
from benchmarks.grid import HERE, Config, Table, main
from edgekd.config import resolve
from edgekd.errors import EnvironmentFault
from edgekd.pipeline.one_stage import export_only

TIE = 1e-4
LOGITS = Path(__file__).with_name("device_logits.py")
# a Python with `arguments`, in the folder that holds the bundle
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def cells() -> Iterator[Config]:
    wrn = {
        "network": "cifar10_wrn16-1_abl_grid_t0.tar",
        "trigger": "cifar10_wrn16-1_abl_grid_t0.trigger.npz",
        "images": 300,
    }
    yield {**wrn, "machine": "aarch64", "python": arm64_root.PYTHON}
    for version in ("3.8", "3.10", "3.12"):
        yield {**wrn, "machine": "x86_64", "python": version}


def run(config: Config, folder: Path) -> dict[str, Any]:
    bundle = folder / "bundle"
    if not (bundle / "manifest.json").exists():
        shutil.rmtree(bundle, ignore_errors=True)
        make_bundle(config, bundle)
    place, python = (_arm if config["machine"] == "aarch64" else _native)(config, folder)
    ours = here(folder)
    if place != folder:
        shutil.copytree(bundle, place / "bundle")
        shutil.copy2(LOGITS, place)
    there = _logits(python, place, "there")
    info = python("bundle/edgekd-device.pyz", "info", "bundle", python=("-S", "-I"))
    ran = python("bundle/edgekd-device.pyz", "run", "bundle", "--level", "smoke", "--out", "report.json")
    report = json.loads((place / "report.json").read_text("utf-8")) if ran.returncode in (0, 1) else {"rows": ()}
    files = {name: apart(ours[name], there[name]) for name in ours}
    counted = {row["stage"]: row["acc"]["hits"] for row in report["rows"]}
    wanted = right(there, bundle)
    return {
        "platform": (place / "there.txt").read_text("utf-8").strip(),
        "files": files,
        "info_code": info.returncode,
        "run_code": ran.returncode,
        "refused": "" if report["rows"] else ran.stderr[-1000:],
        "right": counted,
        # `run` says 1 where a timing is not to be quoted, as no timing from an emulator is
        "passed": info.returncode == 0 and counted == wanted and all(file["passed"] for file in files.values()),
    }


def make_bundle(config: Config, bundle: Path) -> None:
    """A bundle of a network of the shared folder: real calibration images, ``images`` of the test set; for the CPU by default."""
    shared = prepare_data.shared_folder() / "checkpoints"
    flags: dict[str, Any] = {
        "teacher": str(shared / config["network"]),
        "data": str(prepare_data.few("cifar10_train", 1500)),
        "test": str(prepare_data.few("cifar10_test", config["images"])),
        "target": config.get("target", "cpu"),
    }
    if config["trigger"]:
        flags.update({"trigger.file": str(shared / config["trigger"]), "trigger.target_label": 0})
    export_only(resolve(None, flags), bundle)


def apart(here: np.ndarray, there: np.ndarray) -> dict[str, Any]:
    """How far two sets of logits [N, K] are from each other; a label may differ where ``here`` all but ties."""
    images = np.arange(len(here))
    ours, theirs = here.argmax(1), there.argmax(1)
    gaps = here[images, ours] - here[images, theirs]
    return {
        "images": len(here),
        "labels_differ": int((ours != theirs).sum()),
        "beyond_ties": int((gaps >= TIE).sum()),
        "largest_difference": float(np.abs(here - there).max()),
        "passed": bool((gaps < TIE).all() and np.isfinite(there).all()),
    }


def right(logits: dict[str, np.ndarray], bundle: Path) -> dict[str, int]:
    """How many clean probe images each model file names rightly."""
    with np.load(bundle / "probe.npz", allow_pickle=False) as probes:
        labels = probes["labels"]
    return {name: int((found.argmax(1) == labels).sum()) for name, found in logits.items()}


def here(folder: Path) -> dict[str, np.ndarray]:
    """This machine's logits of the model files in ``folder``/bundle, by the bundle's own package."""
    shutil.copy2(LOGITS, folder)
    return _logits(lambda *words: _plain(sys.executable, folder, *words), folder, "here")


def _logits(python: Run, place: Path, name: str) -> dict[str, np.ndarray]:
    done = python(LOGITS.name, "bundle", f"{name}.npz")
    if done.returncode != 0:
        raise EnvironmentFault(f"The logits were not computed: {done.stderr[-2000:]}")
    (place / f"{name}.txt").write_text(done.stdout, "utf-8")
    with np.load(place / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def _plain(executable: str, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    around = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
    return subprocess.run([executable, *words], cwd=place, env=around, capture_output=True, text=True, check=False)


def _native(config: Config, folder: Path) -> tuple[Path, Run]:
    """A fresh environment of that Python with numpy and onnxruntime, as its package index offers them."""
    environment = folder / "environment"
    executable = environment / "bin" / "python"
    if not (environment / "ready").exists():
        made = subprocess.run([_interpreter(config["python"]), "-m", "venv", "--clear", str(environment)], check=False)
        pip = [str(executable), "-m", "pip", "install", "-q", "--only-binary=:all:", "numpy", "onnxruntime"]
        if made.returncode or subprocess.run(pip, check=False).returncode:
            raise EnvironmentFault(f"onnxruntime does not install into a fresh Python {config['python']} here.")
        (environment / "ready").touch()
    return folder, lambda *words, python=(): _plain(str(executable), folder, *python, *words)


def _interpreter(version: str) -> str:
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*map(str, sorted(versions.glob(f"{version}.*/bin/python{version}"))), shutil.which(f"python{version}")]
    for candidate in filter(None, found):
        return candidate
    raise EnvironmentFault(f"There is no Python {version} here.")


def _arm(config: Config, folder: Path) -> tuple[Path, Run]:
    """A folder inside the emulated system, and its Python started there."""
    root = arm64_root.make(HERE.parent / ".cache" / "arm64-root")
    place = root / "work"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()

    def run(*words: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        entered = ("-c", "import os, runpy, sys; os.chdir('/work'); sys.argv = sys.argv[1:]; "
                   "runpy.run_path(sys.argv[0], run_name='__main__')", *words)  # fmt: skip
        return arm64_root.enter(root, *entered, python=python)

    return place, run


if __name__ == "__main__":
    sys.exit(main(Table("platforms", cells, run, lambda config: 8.0 if config["machine"] == "aarch64" else 1.0)))
