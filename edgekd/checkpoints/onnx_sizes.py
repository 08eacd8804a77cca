"""What a stranger's ONNX graph takes to run, worked out without running it; called in the child.

The shape of the input is fixed, then the output of each operator follows. Short constants (shapes, bounds) are computed on
the way, so that a size that the graph computes from its own numbers is known like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UnsafeInput, UsageError
from .wording import printable

TENSOR_BYTES = 256 << 20  # one value of one run
LIVE_BYTES = 1 << 30  # all values that are needed at one time; constants for ever, since runtimes compute them once
SWELLING = 4  # more of both by the file's own tensors so many times: int8 weights become float
WORK = 10**12  # multiply-adds for one image
TOUCHED = 16  # what one number read or written counts, in multiply-adds
FOLLOWED = 4096  # numbers of a constant that is computed here
BATCHES = (1, 4, 16, 64)  # images per run, where the graph leaves that free
BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}  # TensorProto.DataType
FLOATS = (1, 10, 11)
# operators that graphs compute sizes with; nothing here takes longer than its output is long
COMPUTED = frozenset(
    """Abs Add And Cast CastLike Ceil Concat Constant ConstantOfShape Div Equal Expand Flatten Floor Gather Greater Identity
    Less Max Min Mod Mul Neg Not Or Range ReduceMax ReduceMin ReduceProd ReduceSum Reshape Round Shape Sign Size Slice
    Split Sqrt Squeeze Sub Tile Transpose Unsqueeze Where""".split()
)


@dataclass
class Value:
    """A tensor: its TensorProto.DataType and shape; its numbers where they are followed; constant: no pixel is in it."""

    type: int
    shape: tuple[int, ...]
    data: Any = None
    constant: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * BYTES[self.type]


@dataclass(frozen=True)
class Plan:
    """batches: how many images one run may take, largest first; macs: of Conv, Gemm and MatMul with constant weights."""

    batches: tuple[int, ...]
    parameters: int
    macs: int


def plan(model: Any, shape: Sequence[int] | None = None) -> Plan:
    """Work out a checked graph for one image of ``shape`` (C, H, W), by default its own; no batches where that is free.

    Raises UnsafeInput for what takes more than the limits, UsageError for sizes that depend on the pixels.
    """
    graph = _Graph(model)
    batch, *image = graph.dims or [None, None]
    if shape is not None:
        if len(image) != len(shape) or any(size not in (None, s) for size, s in zip(image, shape, strict=True)):
            raise UsageError(f"Its input is {[size or '?' for size in graph.dims]}, but the images are {list(shape)}.")
        image = list(shape)
    sizes = [size for size in image if size is not None]
    if len(sizes) < len(image):
        return Plan((), graph.parameters, 0)
    macs = graph.walk([batch or 1, *sizes]) // (batch or 1)
    one, batches = graph.result, [batch or 1]
    for more in BATCHES[1:] if batch is None else ():
        try:
            graph.walk([more, *sizes])
        except (UnsafeInput, UsageError):  # one image is fine: so many at once are not, or a shape in it says one
            break
        if graph.result != (more, *one[1:]):
            break
        batches.append(more)
    return Plan(tuple(reversed(batches)), graph.parameters, macs)


class _Graph:
    """One graph, measured for one shape of its input after the other."""

    def __init__(self, model: Any) -> None:
        import onnx
        import onnx.reference

        self.onnx, self.nodes = onnx, list(model.graph.node)
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.weights = {tensor.name: self._weight(tensor) for tensor in model.graph.initializer}
        entry = next(value for value in model.graph.input if value.name not in self.weights)
        self.entry, self.type = entry.name, entry.type.tensor_type.elem_type
        if self.type not in BYTES:
            raise UsageError(f"Its input is of a type ({self.type}) that is not read.")
        self.dims = [size.dim_value or None for size in entry.type.tensor_type.shape.dim]
        self.file_bytes = sum(value.bytes for value in self.weights.values())
        self.parameters = sum(value.elements for value in self.weights.values() if value.type in FLOATS)
        self.last = {name: index for index, node in enumerate(self.nodes) for name in node.input}
        self.output = model.graph.output[0].name
        self.last[self.output] = len(self.nodes)
        self.result: tuple[int, ...] = ()

    def _weight(self, tensor: Any) -> Value:
        followed = math.prod(tensor.dims) <= FOLLOWED
        data = self.onnx.numpy_helper.to_array(tensor) if followed else None
        return Value(tensor.data_type, tuple(tensor.dims), data, constant=True)

    def walk(self, dims: Sequence[int]) -> int:
        """Every value in the file's order for an input of ``dims``, held against the limits; the multiply-adds."""
        values = {**self.weights, self.entry: Value(self.type, tuple(dims))}
        allowed, held, work, macs = SWELLING * self.file_bytes, values[self.entry].bytes, 0, 0
        for index, node in enumerate(self.nodes):
            given = [values[name] if name else None for name in node.input]
            made = self._made(node, values)
            values.update(made)
            held += sum(value.bytes for value in made.values())
            largest = max([_scratch(node, given, made.values()), *(value.bytes for value in made.values())])
            layer = _multiply_adds(node, given, made.values())
            work += layer + TOUCHED * sum(value.elements for value in (*given, *made.values()) if value)
            if node.op_type in ("Conv", "Gemm", "MatMul") and values[node.input[1]].constant:
                macs += layer
            for name, amount, most in (
                ("bytes for one value", largest, TENSOR_BYTES + allowed),
                ("bytes at one time", held, LIVE_BYTES + allowed),
                ("operations", work, dims[0] * WORK),
            ):
                if amount > most:
                    raise UnsafeInput(
                        f"For an input of {list(dims)} its operator {printable(node.op_type, 60)} takes {amount} {name}; "
                        f"{most} are allowed. Take another network, or export it for fewer or smaller images."
                    )
            for name in {*node.input, *made}:
                if name and self.last.get(name, index) == index and not values[name].constant:
                    held -= values[name].bytes
        self.result = values[self.output].shape
        return macs

    def _made(self, node: Any, values: dict[str, Value]) -> dict[str, Value]:
        """What ``node`` makes: types and shapes by the operator's own rules, numbers of short constants as well."""
        given = {name: values[name] for name in node.input if name}
        constant = node.op_type in ("Shape", "Size") or all(value.constant for value in given.values())
        made = {}
        for name, (kind, shape) in self._shapes(node, given).items():
            known = tuple(size for size in shape if size is not None and size >= 0)
            if kind not in BYTES or len(known) < len(shape):
                raise UsageError(
                    f"The output of its operator {printable(node.op_type, 60)} has a size that depends on the pixels, or "
                    "that cannot be worked out. Export the network with fixed sizes."
                )
            made[name] = Value(kind, known, constant=constant)
            if node.op_type == "Reshape" and made[name].elements != given[node.input[0]].elements:  # as rules let pass
                raise _misfit(node, f"{given[node.input[0]].elements} numbers for {list(known)}")
        if constant and node.op_type in COMPUTED and all(value.elements <= FOLLOWED for value in made.values()):
            self._compute(node, given, made)
        return made

    def _shapes(self, node: Any, given: dict[str, Value]) -> dict[str, tuple[int, tuple[int | None, ...]]]:
        onnx = self.onnx
        if node.op_type == "GroupNormalization":  # onnx has no rule for it
            first = given[node.input[0]]
            return {node.output[0]: (first.type, first.shape)}
        try:
            found = onnx.shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, self.opset, ""),
                node,
                {name: onnx.helper.make_tensor_type_proto(value.type, value.shape) for name, value in given.items()},
                {
                    name: onnx.numpy_helper.from_array(value.data, name)
                    for name, value in given.items()
                    if value.data is not None
                },
                opset_imports=[onnx.helper.make_opsetid("", self.opset)],
            )
        except Exception as error:  # a class of its own for every kind of misfit
            raise _misfit(node, str(error)) from error
        return {name: _known(found[name].tensor_type) if name in found else (0, ()) for name in node.output if name}

    def _compute(self, node: Any, given: dict[str, Value], made: dict[str, Value]) -> None:
        import numpy as np

        onnx = self.onnx
        if node.op_type in ("Shape", "Size"):  # of values whose numbers nobody needs
            ((_, value),), ((_, result),) = given.items(), made.items()
            cut = {attribute.name: attribute.i for attribute in node.attribute}
            sizes = value.shape[cut.get("start", 0) : cut.get("end")] if node.op_type == "Shape" else value.elements
            result.data = np.array(sizes, np.int64)
            return
        if any(value.data is None for value in given.values()):
            return
        inputs = [onnx.helper.make_tensor_value_info(name, value.type, None) for name, value in given.items()]
        outputs = [onnx.helper.make_tensor_value_info(name, value.type, None) for name, value in made.items()]
        graph = onnx.helper.make_graph([node], "one", inputs, outputs)
        try:
            with np.errstate(all="ignore"):
                found = onnx.reference.ReferenceEvaluator(graph, opsets={"": self.opset}).run(
                    None, {name: value.data for name, value in given.items()}
                )
        except Exception:  # whatever an operator thinks of odd numbers: they stay unknown
            return
        for value, data in zip(made.values(), found, strict=True):
            if np.shape(data) == value.shape:
                value.data = np.asarray(data, onnx.helper.tensor_dtype_to_np_dtype(value.type))


def _known(tensor: Any) -> tuple[int, tuple[int | None, ...]]:
    """Type and sizes of a TypeProto.Tensor; None for what is unknown."""
    if not tensor.HasField("shape"):
        return tensor.elem_type, (None,)
    return tensor.elem_type, tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)


def _misfit(node: Any, why: str) -> UsageError:
    return UsageError(
        f"Its operator {printable(node.op_type, 60)} does not fit what it is given "
        f"({printable(next(iter(why.splitlines()), ''), 160)}). Export the network again."
    )


def _multiply_adds(node: Any, given: Sequence[Value | None], made: Iterable[Value]) -> int:
    out, kind = sum(value.elements for value in made), node.op_type
    first, second = ([*given, None, None])[:2]
    attributes: dict[str, Any] = {attribute.name: attribute for attribute in node.attribute}
    if kind in ("MaxPool", "AveragePool"):
        return out * int(math.prod(attributes["kernel_shape"].ints))
    if first is None or second is None:
        return 0
    if kind == "Conv":
        return out * math.prod(second.shape[1:])
    if kind == "ConvTranspose":
        return first.elements * math.prod(second.shape[1:])
    if kind == "Gemm":
        return out * first.shape[0 if "transA" in attributes and attributes["transA"].i else 1]
    return out * first.shape[-1] if kind == "MatMul" else 0


def _scratch(node: Any, given: Sequence[Value | None], made: Iterable[Value]) -> int:
    """Bytes of the columns that a convolution of one image may be unfolded into: integers forward, floats transposed."""
    if node.op_type not in ("Conv", "ConvTranspose") or given[0] is None or given[1] is None:
        return 0
    kernel = math.prod(given[1].shape[1:])
    if node.op_type == "ConvTranspose":
        return 4 * kernel * math.prod(given[0].shape[2:])
    return kernel * max(math.prod(value.shape[2:]) for value in made)
