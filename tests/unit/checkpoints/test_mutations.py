"""Thousands of small files with random damage, in this process: only our own two refusals may come out."""

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from small_files import batch, saved

from edgekd.checkpoints import worker
from edgekd.checkpoints.kinds import kind_of
from edgekd.errors import UnsafeInput, UsageError

STATE = {"net": {"module.conv.weight": torch.ones(2, 3), "module.bn.running_var": torch.ones(2).half()}, "acc": 1.5}


def graph() -> bytes:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Flatten", ["x"], ["f"], axis=1), helper.make_node("MatMul", ["f", "w"], ["y"])]
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    made = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["N", 4])], [value("y", TensorProto.FLOAT, ["N", 2])], [weight]
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


SEEDS = {
    "zip": (worker.teacher, saved(STATE), 10_000),
    "legacy": (worker.teacher, saved(STATE, legacy=True), 10_000),
    "safetensors": (worker.teacher, safetensors.torch.save(STATE["net"]), 10_000),
    "onnx": (worker.teacher, graph(), 10_000),
    "cifar": (worker.cifar, batch(bytes(3072), [1]), 10_000),
}


def mutations(data: bytes, count: int) -> Iterator[bytes]:
    """Flipped bits, overwritten, removed, doubled and moved pieces; the same ones in every run."""
    dice = random.Random(0)
    for _ in range(count):
        out = bytearray(data)
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            at, length = dice.randrange(len(out)), dice.choice((1, 1, 2, 4, 8, 30))
            kind = dice.randrange(6)
            if kind == 0:
                out[at] ^= 1 << dice.randrange(8)
            elif kind == 1:
                out[at : at + length] = dice.randbytes(length)
            elif kind == 2 and len(out) > length + 1:
                del out[at : at + length]
            elif kind == 3:
                out[at:at] = out[at : at + length]
            elif kind == 4:
                out[at : at + length] = dice.choice((b"\xff", b"\0", b"\x7f")) * length
            else:
                other = dice.randrange(len(out))
                out[at : at + length] = out[other : other + length]
        yield bytes(out)


@pytest.mark.parametrize("name", SEEDS)
def test_only_refusals_come_out(name: str) -> None:
    job, data, count = SEEDS[name]
    outcomes: Counter[str] = Counter()
    for mutated in mutations(data, count):
        try:
            list(job(mutated, ".onnx" if name == "onnx" else "", 1 << 20)[1])
            outcomes["read"] += 1
        except (UnsafeInput, UsageError) as error:
            outcomes[type(error).__name__ if str(error) else "silent"] += 1
    assert sum(outcomes.values()) == count
    assert outcomes["silent"] == 0
    assert outcomes["UsageError"] > 0


@pytest.mark.parametrize("legacy", [False, True])
def test_no_changed_byte_goes_unseen(legacy: bool) -> None:
    """A byte changed anywhere is refused or means nothing (a date, padding); zips, with checksums, keep their weights."""
    data = saved({"w": torch.ones(2)}, legacy)
    refused = 0
    for at in range(len(data) - (8 if legacy else 0)):  # the old format has no checksum: its numbers may change
        mutated = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        try:
            header, pieces = worker.teacher(mutated, "", 1 << 20)
        except (UnsafeInput, UsageError):
            refused += 1
            continue
        assert header["format"] == kind_of(data, "")
        assert b"".join(bytes(piece) for piece in pieces)[-8:] == b"\0\0\x80?" * 2
    assert refused > len(data) // 4
