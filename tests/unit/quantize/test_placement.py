"""Where the quantisers stand, flavour by flavour, on graphs small enough to name every tensor."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgekd.quantize.graph import capture, fold_batch_norms
from edgekd.quantize.placement import place
from edgekd.types import InputSpec, Model, ModelSpec


def plan(module: nn.Module, flavour: str, **options):
    spec = ModelSpec("test:own", 10, InputSpec(3, 8, 8, (0.0,) * 3, (1.0,) * 3))
    captured = capture(Model(spec, module.eval()))
    norms = fold_batch_norms(captured, as_layers=flavour == "u8s8")
    return place(captured, flavour, norms=norms, **options)


def groups(found) -> list[set[str]]:
    """The names of the tensors of every group; a sum is called "add"."""
    return [{re.sub(r"^add_\d+$", "add", node.name) for node in group.nodes} for group in found.groups]


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class Block(nn.Module):
    """A residual block with a projection on its shortcut, then the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 4), nn.BatchNorm2d(4)
        self.one, self.two, self.shortcut = conv(4, 8), conv(8, 8), conv(4, 8, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))  # conv2d, relu
        main = self.two(F.relu(self.one(x)))  # conv2d_1, relu_1, conv2d_2
        x = F.relu(main + self.shortcut(x))  # conv2d_3, add, relu_2
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # adaptive_avg_pool2d, view, linear


def test_s8_quantises_inputs_and_the_shortcut_only():
    found = plan(Block(), "s8")
    # no conv2d, conv2d_1 (before a ReLU), no conv2d_2 (main branch); the pooling's input, the head's input
    assert {"x", "relu", "relu_1", "conv2d_3", "relu_2"} <= set.union(*groups(found))
    names = set.union(*groups(found))
    assert not names & {"conv2d", "conv2d_1", "conv2d_2", "add", "linear"}
    assert all(group.symmetric for group in found.groups)
    assert [layer.meta["layer"] for layer in found.layers] == ["stem", "one", "two", "shortcut", "fc"]
    assert found.float_layers == ()


def test_u8s8_quantises_what_goes_in_and_out_of_every_kernel():
    found = plan(Block(), "u8s8")
    names = set.union(*groups(found))
    assert {"x", "relu", "relu_1", "conv2d_2", "conv2d_3", "relu_2", "adaptive_avg_pool2d"} <= names
    assert not names & {"conv2d", "conv2d_1", "add", "linear"}
    pooled = next(group for group in groups(found) if "adaptive_avg_pool2d" in group)
    assert len(pooled) == 2, "what the pooling gives and its flattened form share a scale"


def test_only_the_raw_pixels_are_known_to_be_affine():
    found = plan(Block(), "u8s8")
    assert [group.pixels for group in found.groups] == [True] + [False] * (len(found.groups) - 1)


class Norm(nn.Module):
    """Pre-activation: the sum goes on raw, and through a norm in front of the next convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.fc = conv(3, 4), conv(4, 4), nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)  # conv2d
        x = x + self.conv(F.relu(self.norm(x)))  # relu, conv2d_1, add
        return self.fc(x.mean((2, 3)))


def test_a_norm_in_front_of_a_layer_stays_for_tensorrt_and_becomes_a_layer_for_onnxruntime():
    s8, u8s8 = plan(Norm(), "s8"), plan(Norm(), "u8s8")
    assert [layer.meta["layer"] for layer in s8.layers] == ["stem", "conv", "fc"]
    assert [layer.meta["layer"] for layer in u8s8.layers] == ["stem", "norm", "conv", "fc"]
    assert len(s8.float_layers) == 1
    assert s8.float_layers[0].startswith("norm: batch norm")
    assert not u8s8.float_layers
    # the identity branch is the stem's output: quantised for the sum alone
    assert {"conv2d", "relu"} <= set.union(*groups(s8))
    for found, float_too in ((s8, False), (u8s8, True)):
        (stem,) = (group.nodes[0] for group in found.groups if group.nodes[0].name == "conv2d")
        read = {str(user.target).split(".")[1]: user in found.readers for user in stem.users}
        assert read.pop("add") is True
        assert list(read.values()) == [float_too], "the norm, which u8s8 makes a layer"


class Concatenated(nn.Module):
    """As in a dense block: what was concatenated goes through a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.norm = conv(3, 4), conv(4, 4), nn.BatchNorm2d(8)
        self.two, self.fc = conv(8, 4), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([x, self.one(x)], 1)
        return self.fc(self.two(F.relu(self.norm(x))).mean((2, 3)))


def test_a_move_reads_integers_only_where_somebody_behind_it_does():
    found = plan(Concatenated(), "s8")
    names = {node.name for node in found.readers}
    assert "cat" not in names, "a float norm would get rounded values"
    moved = plan(Moves(), "s8")
    assert "cat" in {node.name for node in moved.readers}


class Moves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three, self.fc = conv(3, 4), conv(4, 8), conv(12, 4), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.one(x))  # relu
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))  # slice_1, slice_2, pad
        x = F.max_pool2d(self.two(x), 2) + shortcut  # conv2d_1, max_pool2d, add
        x = torch.cat([x, shortcut[:, :4]], 1)
        return self.fc(F.max_pool2d(self.three(x), 2).flatten(1))


@pytest.mark.parametrize("flavour", ["s8", "u8s8"])
def test_tensors_that_only_move_values_share_a_scale(flavour):
    found = groups(plan(Moves(), flavour))
    moved = next(group for group in found if "cat" in group)
    assert {"relu", "cat", "add"} <= moved
    assert not any(name.startswith("slice") for name in moved), "only the ends of a chain of moves are rounded"
    if flavour == "u8s8":
        assert "pad" in moved
        assert {"conv2d_1", "max_pool2d"} in found
        assert any({"conv2d_2", "max_pool2d_1"} < group for group in found)


class Activations(nn.Module):
    def __init__(self, activation) -> None:
        super().__init__()
        self.one, self.two, self.activation = conv(3, 4), conv(4, 10), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.activation(self.one(x))).mean((2, 3))


@pytest.mark.parametrize(
    ("activation", "between"),
    [
        (F.relu, False),
        (F.relu6, False),
        (lambda x: x.clamp(0, 4), False),
        (F.elu, True),
        (lambda x: x.clamp(-1, 1), True),
    ],
)
def test_u8s8_quantises_in_front_of_an_activation_unless_it_only_cuts_at_zero(activation, between):
    assert ("conv2d" in set.union(*groups(plan(Activations(activation), "u8s8")))) is between
    assert "conv2d" not in set.union(*groups(plan(Activations(activation), "s8")))


class Odd(nn.Module):
    """A computed weight and a transposed convolution: both stay float and say so."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.ConvTranspose2d(3, 4, 2), conv(4, 10)
        self.gain = nn.Parameter(torch.ones(10, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(self.up(x), self.head.weight * self.gain).mean((2, 3))


def test_what_stays_float_is_listed_with_its_reason():
    found = plan(Odd(), "u8s8")
    assert not found.layers
    assert not found.groups
    assert [line.partition(": ")[2] for line in found.float_layers] == [
        "transposed convolutions are not quantised",
        "its weight is computed, not stored",
    ]


def test_layers_are_kept_float_on_request():
    found = plan(Block(), "s8", keep_float={"one": "because"}, last=False)
    assert found.float_layers == ("one: because", "fc: the last layer was kept float on request")
    assert [layer.meta["layer"] for layer in found.layers] == ["stem", "two", "shortcut"]
