"""The images of docker/, really built, and a bundle measured in them: Dockerfile.cpu, and Dockerfile.jetson for Arm.

    python -m benchmarks.images      needs root, buildah, podman, debootstrap and (Arm) qemu-user-static; the network

The bases are Debian 12 as debootstrap makes it, since NVIDIA's are not at hand; the GPU's part is off. Met means:
`info` and `run` succeed as the image's own user, without a network, with the host's figures, and write nothing but the
report. The storage of the builds is removed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import platforms
from benchmarks.grid import HERE, Config, Table, main
from edgekd.errors import EnvironmentFault

ROOT = HERE.parent
TOOLS = ("buildah", "podman", "debootstrap", "unshare")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
EMULATION = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
CERTIFICATES, THERE = "/etc/ssl/certs", "/certificates"


def cells() -> Iterator[Config]:
    for file, machine in (("Dockerfile.cpu", "amd64"), ("Dockerfile.jetson", "arm64")):
        yield {
            "file": file,
            "machine": machine,
            "network": "cifar10_wrn16-1_abl_grid_t0.tar",
            "trigger": "cifar10_wrn16-1_abl_grid_t0.trigger.npz",
            "images": 40,
        }


def missing(machine: str) -> str:
    """What stands in the way of building here; empty where nothing does."""
    if os.geteuid() != 0:
        return "building on a base of our own needs root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if machine == "arm64" and not EMULATION.exists():
        absent.append("qemu-user-static")
    return (
        f"apt-get install buildah podman debootstrap qemu-user-static: there is no {', '.join(absent)}"
        if absent
        else ""
    )


def run(config: Config, folder: Path) -> dict[str, Any]:
    if why := missing(config["machine"]):
        raise EnvironmentFault(why)
    bundle = folder / "bundle"
    if not (bundle / "manifest.json").exists():
        shutil.rmtree(bundle, ignore_errors=True)
        platforms.make_bundle(config, bundle)
    wanted = platforms.right(platforms.here(folder), bundle)
    with emulated(config["machine"]), _Storage(config["machine"]) as storage:
        started = time.monotonic()
        storage.build(ROOT / "docker" / config["file"])
        seconds = time.monotonic() - started
        found = _measured(storage, bundle, folder / "out")
    figures = found["right"] == wanted
    return {
        **found,
        "build_seconds": round(seconds, 1),
        "passed": figures and found["user"] == "10001" and not found["written"] and found["codes"] == [0, 0],
    }


def _measured(storage: _Storage, bundle: Path, out: Path) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    config = json.loads(storage.call("inspect", "--type", "image", storage.image))["OCIv1"]["config"]
    os.chown(out, int(config["User"]), -1)
    container = storage.call("from", "--pull-never", storage.image).strip()
    place = Path(storage.call("mount", container).strip())
    size = sum(path.lstat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    began = time.time()
    codes, said = [], ""
    for words in (["info", "/bundle"], ["run", "/bundle", "--level", "smoke", "--out", "/out/report.json"]):
        done = storage.start(container, bundle, out, [*config["Entrypoint"], *words])
        codes.append(done.returncode)
        said = done.stderr if done.returncode else said
    report = json.loads((out / "report.json").read_text("utf-8")) if not any(codes) else {"rows": [], "environment": {}}
    written = [path.relative_to(place) for path in place.rglob("*") if path.is_file() and path.lstat().st_mtime > began]
    return {
        "user": config["User"],
        "entry": " ".join(config["Entrypoint"]),
        "image_mb": round(size / 1e6),
        "codes": codes,
        "refused": said[-1000:],
        "machine": report["environment"].get("machine"),
        "python": report["environment"].get("python"),
        "right": {row["stage"]: row["acc"]["hits"] for row in report["rows"]},
        "written": [str(path) for path in written],
    }


class _Storage:
    """A place for images that is removed at the end; buildah copies every layer, so it is large."""

    image = "localhost/edgekd-device:built"

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.folder = tempfile.mkdtemp(prefix="edgekd-images-", dir=_cache())
        self.options = ["--storage-driver", "vfs", "--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run"]

    def __enter__(self) -> _Storage:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["buildah", *self.options, "umount", "--all"], check=False, capture_output=True)
        shutil.rmtree(self.folder)

    def call(self, *words: str) -> str:
        """What buildah prints; raises EnvironmentFault with the end of what it complains of."""
        done = subprocess.run(["buildah", *self.options, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise EnvironmentFault(
                f"buildah {words[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}"
            )
        return done.stdout

    def build(self, file: Path) -> None:
        base = f"localhost/base:{self.machine}"
        with subprocess.Popen(["tar", "-C", str(debian(self.machine)), "-c", "."], stdout=subprocess.PIPE) as packed:
            podman = ["podman", *self.options, "import", "--arch", self.machine, "-", base]
            subprocess.run(podman, stdin=packed.stdout, check=True, capture_output=True)
        given = {"BASE_IMAGE": base, "PIP_CERT": f"{THERE}/ca-certificates.crt", "GPU": "0"}
        given |= {"L4T": "", "TENSORRT": ""}  # a plain Debian is no JetPack's
        used = [name for name in given if f"ARG {name}" in file.read_text("utf-8")]
        arguments = [word for name in used for word in ("--build-arg", f"{name}={given[name]}")]
        how = [
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--pull-never",
            "--format",
            "docker",
            "--arch",
            self.machine,
        ]
        volume = ["--volume", f"{CERTIFICATES}:{THERE}:ro"]
        self.call("bud", *how, *volume, *arguments, "-f", str(file), "-t", self.image, str(ROOT))

    def start(self, container: str, bundle: Path, out: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
        """Run ``words`` as the image's user; in a network of its own, which has no way out."""
        volumes = ["--volume", f"{bundle}:/bundle:ro", "--volume", f"{out}:/out"]
        command = ["buildah", *self.options, "run", "--isolation", "chroot", "--network", "host", *volumes, container]
        # onnxruntime reads the processor's description there, and crashes on another machine's
        apart = ["unshare", "--net", "--mount", "sh", "-c", 'mount -t tmpfs none /sys && exec "$@"', "sh"]
        return subprocess.run([*apart, *command, "--", *words], capture_output=True, text=True, check=False)


def _cache() -> Path:
    folder = ROOT / ".cache"
    folder.mkdir(exist_ok=True)
    return folder


def debian(machine: str) -> Path:
    """A minimal Debian 12 as a folder, made where there is none; the other machine's runs its own set-up emulated."""
    folder = _cache() / f"debian-{machine}"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = ["debootstrap", f"--arch={machine}", "--variant=minbase", "bookworm", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EnvironmentFault(f"debootstrap ended with {done.returncode}: {done.stdout[-2000:]}")
        (folder / "ready").touch()
    return folder


@contextlib.contextmanager
def emulated(machine: str) -> Iterator[None]:
    """The kernel starts Arm's programs through qemu inside the block; afterwards it is as it was."""
    if machine != "arm64" or os.uname().machine == "aarch64":
        yield
        return
    mounted = (BINFMT / "register").exists()
    if not mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
    known = BINFMT / "qemu-aarch64"
    ours = not known.exists()
    try:
        if ours:
            (BINFMT / "register").write_text(EMULATION.read_text().strip())
        yield
    finally:
        if ours and known.exists():
            known.write_text("-1")
        if not mounted:
            subprocess.run(["umount", str(BINFMT)], check=False)


if __name__ == "__main__":
    sys.exit(main(Table("images", cells, run, lambda config: 20.0 if config["machine"] == "arm64" else 3.0)))
