"""Targets are values, and a misspelt name gets help."""

import subprocess
import sys

import pytest

from edgekd import targets
from edgekd.errors import UsageError


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_target_ships_one_of_its_files_and_lets_the_host_time_it(name):
    target = targets.get(name)
    assert target.ships in target.files
    assert "model.onnx" in target.files
    assert "model.u8s8.onnx" in target.files, "what the host's own processor can run"
    assert target.runtime in ("onnxruntime", "tensorrt")
    assert target.default_students
    assert target.description
    assert target.name == name or "same as" in target.description


def test_jetson_is_the_smallest_board():
    assert targets.get("jetson").name == "jetson-orin-nano"
    assert targets.get("jetson").files == targets.get("jetson-orin-nano").files


def test_fp16_is_always_there_to_be_measured_beside_int8():
    for target in targets.TARGETS.values():
        if target.runtime == "tensorrt":
            assert "model.fp16.onnx" in target.files


@pytest.mark.parametrize(
    ("typo", "meant"), [("jetson-orin-nan", "jetson-orin-nano"), ("CPU", "cpu"), ("jetson_thor", "jetson-thor")]
)
def test_did_you_mean(typo, meant):
    with pytest.raises(UsageError, match=f"Did you mean {meant!r}"):
        targets.get(typo)


def test_a_name_like_no_other_lists_them_all():
    with pytest.raises(UsageError, match=r"no target 'zzz'\. There are cpu, cuda, jetson"):
        targets.get("zzz")


def test_looking_at_targets_loads_nothing_heavy():
    code = "import sys, edgekd.targets; print(sorted({'torch', 'onnx', 'numpy'} & set(sys.modules) - {'numpy'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
