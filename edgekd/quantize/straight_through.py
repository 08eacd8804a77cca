"""An ONNX graph as a torch network with gradients: its roundings let them pass straight through inside their range.

The scales are those of the file, so an attack on this copy is one on what ships. Only what image classifiers are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from edgekd.errors import UsageError

Attributes = dict[str, Any]
Operator = Callable[..., Tensor]


class StraightThrough(nn.Module):
    """What the graph takes, [N, C, H, W], in; its first output, [N, K], out; all of it in float32.

    Raises UsageError for an operator, or a form of one, that it does not know.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__()
        proto = onnx.load_model_from_string(data).graph
        self.constants = {tensor.name: _tensor(tensor) for tensor in proto.initializer}
        self.steps = [_step(node) for node in proto.node]
        entries = [entry.name for entry in proto.input if entry.name not in self.constants]
        self.entry, self.exit = entries[0], proto.output[0].name

    def forward(self, images: Tensor) -> Tensor:
        values: dict[str, Tensor | None] = {"": None, **self._placed(images.device), self.entry: images}
        for operator, attributes, names, out in self.steps:
            values[out] = operator(attributes, *(values[name] for name in names))
        logits = values[self.exit]
        assert logits is not None
        return logits

    def _placed(self, device: torch.device) -> dict[str, Tensor]:
        if any(value.device != device for value in self.constants.values()):
            self.constants = {name: value.to(device) for name, value in self.constants.items()}
        return self.constants


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    array = np.array(numpy_helper.to_array(tensor))
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array)


def _step(node: onnx.NodeProto) -> tuple[Operator, Attributes, list[str], str]:
    operator = OPERATORS.get(node.op_type)
    if operator is None or node.domain not in ("", "ai.onnx") or len([name for name in node.output if name]) > 1:
        raise UsageError(
            f"The ONNX operator {node.op_type} has no gradient here; there are {', '.join(sorted(OPERATORS))}."
        )
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise UsageError(f"An ONNX {node.op_type} that pads by itself (auto_pad) has no gradient here.")
    return operator, attributes, list(node.input), node.output[0]


# ---- integers --------------------------------------------------------------------------------------------------------------


class _Round(torch.autograd.Function):
    """Levels to integers within [low, high]; gradients pass where the integer needed no clipping.

    Exact integers, unlike levels + (rounded - levels): pooling breaks ties by the last bit.
    """

    @staticmethod
    def forward(ctx: Any, levels: Tensor, offset: Tensor, low: int, high: int) -> Tensor:
        integers = levels.round() + offset
        ctx.save_for_backward((integers >= low) & (integers <= high))
        return integers.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def _quantize(attributes: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Integers, as float32."""
    limits = torch.iinfo(torch.uint8 if zero is None else zero.dtype)
    offset = torch.zeros((), device=x.device) if zero is None else _along(zero.float(), attributes, x)
    integers: Tensor = _Round.apply(x / _along(scale, attributes, x), offset, limits.min, limits.max)  # type: ignore[no-untyped-call]
    return integers


def _dequantize(attributes: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    offset = 0 if zero is None else _along(zero.float(), attributes, x)
    return (x.float() - offset) * _along(scale, attributes, x)


def _along(values: Tensor, attributes: Attributes, x: Tensor) -> Tensor:
    """One value for all of x, or one for each place along the axis."""
    if values.dim() == 0 or values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[attributes.get("axis", 1)] = -1
    return values.view(shape)


# ---- layers ------------------------------------------------------------------------------------------------------------------


def _padded(attributes: Attributes, x: Tensor, value: float = 0.0) -> Tensor:
    """x with the ``pads`` (top, left, bottom, right) of a convolution or pool around it."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return F.pad(x, (left, right, top, bottom), value=value) if top or left or bottom or right else x


def _convolution(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    group = attributes.get("group", 1)
    return F.conv2d(_padded(attributes, x), weight, bias, tuple(strides), 0, tuple(dilations), group)


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a, b = (m.T if attributes.get(f"trans{n}") else m for n, m in (("A", a), ("B", b)))
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    dilations, ceil = attributes.get("dilations", [1, 1]), bool(attributes.get("ceil_mode", 0))
    padded = _padded(attributes, x, -torch.inf)
    return F.max_pool2d(padded, tuple(kernel), tuple(strides), 0, tuple(dilations), ceil_mode=ceil)


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", [1, 1]))
    if attributes.get("ceil_mode") or set(attributes.get("dilations", [1])) != {1}:
        raise UsageError("An ONNX AveragePool with ceil_mode or dilations has no gradient here.")
    total = F.avg_pool2d(_padded(attributes, x), kernel, strides)
    if attributes.get("count_include_pad") or not any(attributes.get("pads", ())):
        return total
    return total / F.avg_pool2d(_padded(attributes, torch.ones_like(x)), kernel, strides)


def _batch_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, attributes.get("epsilon", 1e-5))


def _clip(_: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low.to(x))
    return x if high is None else torch.minimum(x, high.to(x))


# ---- shapes ------------------------------------------------------------------------------------------------------------------


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = [int(size) for size in shape]
    if not attributes.get("allowzero"):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def _mean(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = attributes.get("axes") if axes is None else [int(axis) for axis in axes]
    return x.mean(tuple(chosen) if chosen else tuple(range(x.dim())), keepdim=bool(attributes.get("keepdims", 1)))


def _pad(
    attributes: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    if attributes.get("mode", b"constant") != b"constant":
        raise UsageError("An ONNX Pad other than by a constant has no gradient here.")
    sizes = [int(size) for size in pads]
    along = range(x.dim()) if axes is None else [int(axis) % x.dim() for axis in axes]
    both = dict(zip(along, zip(sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :], strict=True), strict=True))
    flat = [size for axis in reversed(range(x.dim())) for size in both.get(axis, (0, 0))]
    return F.pad(x, flat, value=0.0 if value is None else float(value))


OPERATORS: dict[str, Operator] = {
    "Add": lambda _, a, b: a + b,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda _, x: x.float() if x.is_floating_point() else x,
    "Clip": _clip,
    "Concat": lambda attributes, *parts: torch.cat(parts, attributes["axis"]),
    "Conv": _convolution,
    "DequantizeLinear": _dequantize,
    "Div": lambda _, a, b: a / b,
    "Elu": lambda attributes, x: F.elu(x, attributes.get("alpha", 1.0)),
    "Flatten": lambda attributes, x: x.flatten(attributes.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda attributes, x: (attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda _, x: F.hardswish(x),
    "Identity": lambda _, x: x,
    "LeakyRelu": lambda attributes, x: F.leaky_relu(x, attributes.get("alpha", 0.01)),
    "MatMul": lambda _, a, b: a @ b,
    "MaxPool": _max_pool,
    "Mul": lambda _, a, b: a * b,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "ReduceMean": _mean,
    "Relu": lambda _, x: x.relu(),
    "Reshape": _reshape,
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Softmax": lambda attributes, x: x.softmax(attributes.get("axis", -1)),
    "Sub": lambda _, a, b: a - b,
}
