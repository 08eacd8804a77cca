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
    with pytest.raises(UsageError, match=r"no target 'zzz'\. There are cpu, cpu-arm64, cuda, jetson"):
        targets.get("zzz")


def test_looking_at_targets_loads_nothing_heavy():
    code = "import sys, edgekd.targets; print(sorted({'torch', 'onnx', 'numpy'} & set(sys.modules) - {'numpy'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


BOARDS = [name for name, target in targets.TARGETS.items() if target.jetpacks]


def test_the_boards_are_those_we_know_the_systems_of():
    assert {name for name in targets.TARGETS if name.startswith("jetson")} == set(BOARDS)
    assert not targets.get("cuda").power_modes


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_says_what_its_system_brings(name):
    """TensorRT 8 of JetPack 4, 5 and 6.0 is refused on the board, so no board may promise it."""
    board = targets.get(name)
    for system in board.jetpacks:
        assert tuple(map(int, system.tensorrt.split("."))) >= (10, 3)
        assert (system.cuda, system.python) in {("12.6", "3.10"), ("13.0", "3.12"), ("13.2", "3.12")}
    assert len(set(board.power_modes)) == len(board.power_modes) > 1
    assert board.ships == "model.qdq.onnx"
    assert "model.qdq.fp16.onnx" in board.files, "what a strongly typed network needs"


def test_only_the_larger_orins_have_dla():
    """The device card, 5.6: two cores in the largest module, none in Orin Nano and Thor."""
    assert {name: targets.get(name).dla for name in BOARDS if targets.get(name).dla} == {
        "jetson-orin-nx": 2,
        "jetson-orin-nx-8gb": 1,
        "jetson-agx-orin": 2,
    }


def test_super_is_a_set_of_modes_not_another_board():
    plain, better = targets.get("jetson-orin-nano"), targets.get("jetson-orin-nano-super")
    assert set(plain.power_modes) < set(better.power_modes)
    assert plain.files == better.files


def test_both_kinds_of_processor_get_the_same_files():
    assert targets.get("cpu").files == targets.get("cpu-arm64").files
