"""A 64-bit Arm system as a folder, to enter with chroot under emulation: no container, no kernel module.

Needs root, debootstrap and qemu-user-static, and the network once. Debian 12's Python is 3.11.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from edgekd.errors import EnvironmentFault

EMULATOR = "qemu-aarch64-static"
PYTHON = "3.11"
PACKAGES = "python3,libgomp1,libstdc++6"
WHEELS = ("numpy==2.4.6", "onnxruntime==1.31.1")
SITE = "opt/site"
READY = "ready"


def missing() -> str:
    """What stands in the way of emulation here; empty where nothing does."""
    if os.geteuid() != 0:
        return "chroot needs root"
    absent = [tool for tool in (EMULATOR, "debootstrap", "chroot", "dpkg-deb") if shutil.which(tool) is None]
    return f"apt-get install qemu-user-static debootstrap: there is no {', '.join(absent)}" if absent else ""


def make(root: Path) -> Path:
    """The system in ``root``, made where it is not whole; raises EnvironmentFault, CalledProcessError."""
    if why := missing():
        raise EnvironmentFault(why)
    if (root / READY).exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    _packages(root)
    _wheels(root / SITE)
    emulator = shutil.which(EMULATOR)
    assert emulator is not None
    shutil.copy2(emulator, root / EMULATOR)
    (root / READY).touch()
    return root


def enter(root: Path, *command: str, python: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run Arm's Python with ``command`` inside ``root``; ``python``: options of the interpreter itself."""
    emulated = [f"/{EMULATOR}", "-E", f"PYTHONPATH=/{SITE}", f"/usr/bin/python{PYTHON}", *python, *command]
    return subprocess.run(
        ["chroot", str(root), *emulated],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )


def _packages(root: Path) -> None:
    """Debian's packages, unpacked and not configured: enough for Python, and nothing foreign has to run."""
    command = ["debootstrap", "--arch=arm64", "--variant=minbase", "--foreign", f"--include={PACKAGES}"]
    subprocess.run([*command, "bookworm", str(root)], check=True, stdout=subprocess.DEVNULL)
    if (root / "proc").is_symlink():  # to this machine's, which a walk through the folder would follow
        (root / "proc").unlink()
        (root / "proc").mkdir()
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as unpacked:
            subprocess.run(
                ["tar", "-x", "--keep-directory-symlink", "-C", str(root)], stdin=unpacked.stdout, check=True
            )


def _wheels(site: Path) -> None:
    site.mkdir(parents=True)
    version = PYTHON.replace(".", "")
    kinds = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (28, 27, 17)] + ["--platform=manylinux2014_aarch64"]
    abis = [f"--abi={abi}" for abi in (f"cp{version}", "abi3", "none")]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--implementation=cp", *abis, *kinds]
    subprocess.run([*pip, f"--python-version={PYTHON}", "-d", str(site), *WHEELS], check=True)
    for wheel in site.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        wheel.unlink()
