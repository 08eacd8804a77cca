"""What must be known of an ONNX file before TensorRT sees it, read from its bytes with the standard library.

TensorRT takes unsigned zero points for signed ones, with a warning at most, and some versions take asymmetric ones:
logits are wrong then, and nothing says so. So every Q/DQ pair is held against TensorRT's rules here first, when a bundle is
written and on the board (developer guide, "explicit quantization"): zero points all 0 and INT8, scales positive and finite,
one for an activation. Field numbers are those of onnx.proto (ONNX 1.16).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Iterator, NamedTuple, Union

from .errors import UnsafeInput, UsageError

FLOAT, INT8, INT32, FLOAT16 = 1, 3, 6, 10
TYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 10: "FLOAT16", 21: "UINT4", 22: "INT4"}
STANDARD = ("", "ai.onnx")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
DEPTH = 16  # of graphs within nodes of graphs
CHANNELS = 1 << 16  # of one weight: no scale has more values
FLOATS, INTEGERS, RAW = 4, 5, 9  # the fields of a tensor in which INT8, FLOAT and FLOAT16 values stand
Value = Union[int, memoryview]


@dataclass
class Facts:
    """What decides how an engine of the file is built."""

    half: bool = False  # it holds FLOAT16 tensors: its types are meant as they stand
    quantised: bool = False  # it holds Q/DQ pairs; all of them symmetric, INT8
    layers: int = 0  # convolutions and matrix products
    int8_layers: int = 0  # those of them that read from a DequantizeLinear


class Tensor(NamedTuple):
    kind: int
    values: tuple[tuple[int, Value], ...]  # with the field that each stands in


@dataclass
class Node:
    kind: str = ""
    name: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)  # attributes that are integers


@dataclass
class _Graph:
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    half: bool = False
    nested: bool = False  # a node holds a graph of its own: a branch or a loop


def refuse_foreign(model: bytes) -> None:
    """Raise UnsafeInput for a model that edgekd never exports: loops and branches, which may run without end.

    Weights in another file, custom operators and functions as well; UsageError for what is no model.
    """
    graph = _parsed(model)
    _judged_domains(graph)
    if graph.nested:
        raise UnsafeInput(
            "The model holds a loop or a branch, which is refused because it could run forever. Export the "
            "bundle again."
        )


def read(model: bytes) -> Facts:
    """The facts of the model in these bytes.

    Raises UsageError for a file that is cut short or no model, or whose zero points are not INT8 zeros; UnsafeInput for
    weights in another file, custom operators and functions of the model's own.
    """
    return _judged(_parsed(model))


def _parsed(model: bytes) -> _Graph:
    graph = _Graph()
    found = False
    try:
        for number, value in _fields(memoryview(model)):
            if number == 7 and isinstance(value, memoryview):
                found = True
                _walk(value, graph, 0)
            elif number == 25:
                raise UnsafeInput("The model brings its own functions, which are refused. Export it without them.")
    except (IndexError, UnicodeDecodeError) as error:
        raise UsageError("The model is cut short or not an ONNX file. Copy the bundle again.") from error
    if not found or not graph.nodes:
        raise UsageError("The model holds no graph. Export the bundle again.")
    return graph


def _judged_domains(graph: _Graph) -> None:
    for node in graph.nodes:
        if node.domain not in STANDARD:
            raise UnsafeInput(
                f"The model uses a custom operator, which is refused: {node.domain!r:.60}, {node.kind!r:.60}."
            )


def _judged(graph: _Graph) -> Facts:
    makers = {name: node.kind for node in graph.nodes for name in node.outputs}
    facts = Facts(half=graph.half)
    scales: dict[str, tuple[str, int]] = {}
    _judged_domains(graph)
    for node in graph.nodes:
        if node.kind in ("QuantizeLinear", "DequantizeLinear"):
            facts.quantised = True
            _hold(node, graph.constants)
            _hold_scale(node, graph.constants, scales)
        if node.kind in LAYERS:
            facts.layers += 1
            facts.int8_layers += makers.get(node.inputs[0] if node.inputs else "") == "DequantizeLinear"
    return facts


def _hold(node: Node, constants: dict[str, Tensor]) -> None:
    """Refuse a Q or DQ node that is not symmetric INT8, as TensorRT wants it."""
    zero = node.inputs[2] if len(node.inputs) > 2 else ""
    source = constants.get(node.inputs[0]) if node.inputs else None
    if zero:
        point = constants.get(zero)
        wrong = "a zero point that is computed" if point is None else _fault(point)
    elif node.kind == "QuantizeLinear":  # whose type without a zero point is UINT8
        wrong = "" if node.numbers.get("output_dtype") == INT8 else "UINT8 zero points, by leaving them out"
    else:
        wrong = "" if source is None or source.kind == INT8 else f"{_type(source.kind)} values"
    if wrong:
        raise UsageError(
            f"The model is not quantised for TensorRT: {node.kind} {node.name!r:.60} has {wrong}, but TensorRT "
            "computes with symmetric INT8 only. Give it model.qdq.onnx or model.qdq.fp16.onnx; this file is for "
            "--runtime onnxruntime."
        )


def _fault(point: Tensor) -> str:
    if point.kind != INT8:
        return f"{_type(point.kind)} zero points"
    zero = not any(any(value) if isinstance(value, memoryview) else value for _, value in point.values)
    return "" if zero else "zero points that are not zero"


def _hold_scale(node: Node, constants: dict[str, Tensor], judged: dict[str, tuple[str, int]]) -> None:
    """Refuse a Q or DQ node with a scale that TensorRT does not take. judged: scales, as many nodes may share one."""
    name = node.inputs[1] if len(node.inputs) > 1 else ""
    if name not in judged:
        judged[name] = _fault_of_scale(constants.get(name))
    wrong, count = judged[name]
    if count > 1 and node.kind == "QuantizeLinear" and node.inputs[0] not in constants:
        wrong = wrong or "a scale per channel for an activation"
    if wrong:
        raise UsageError(
            f"The model cannot go to TensorRT: {node.kind} {node.name!r:.60} has {wrong}. Export the bundle again."
        )


def _fault_of_scale(scale: Tensor | None) -> tuple[str, int]:
    """What is wrong with a scale, empty where nothing is, and how many values it has."""
    if scale is None:
        return "a scale that is computed", 0
    if scale.kind not in (FLOAT, FLOAT16):
        return f"{_type(scale.kind)} scales", 0
    if sum(len(value) if isinstance(value, memoryview) else 1 for _, value in scale.values) > 4 * CHANNELS:
        return f"a scale of more than {CHANNELS} values", 0
    try:
        values = list(_floats(scale))
    except (IndexError, struct.error):
        return "a scale that cannot be read", 0
    good = values and all(0 < value < math.inf for value in values)
    return "" if good else "a scale that is not positive and finite", len(values)


def _floats(tensor: Tensor) -> Iterator[float]:
    """The values of a FLOAT or FLOAT16 tensor; raises struct.error or IndexError where they are cut short."""
    for number, value in tensor.values:
        if number == INTEGERS:  # FLOAT16 values, as the integers that their bits are
            bits = _varints(value) if isinstance(value, memoryview) else (value,)
            yield from (struct.unpack("<e", struct.pack("<H", integer))[0] for integer in bits)
        elif isinstance(value, int):
            raise IndexError("not a floating-point number")
        else:
            half = number == RAW and tensor.kind == FLOAT16
            yield from (one for (one,) in struct.iter_unpack("<e" if half else "<f", bytes(value)))


def _type(kind: int) -> str:
    return TYPES.get(kind, f"type {kind}")


# ---- protobuf --------------------------------------------------------------------------------------------------------


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("a number that does not end")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """(field number, integer or bytes) of one message; raises IndexError where it is none."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data) or number == 0:
            raise IndexError("no message")
        yield number, data[at : at + size]
        at += size


def _text(value: Value) -> str:
    return bytes(value).decode("utf-8") if isinstance(value, memoryview) else ""


def _walk(data: memoryview, graph: _Graph, depth: int) -> None:
    """Add the nodes and constants of one graph, and of those within it, to ``graph``."""
    if depth > DEPTH:
        raise UsageError("The model nests graphs too deeply. Export the bundle again.")
    for number, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            graph.nodes.append(_node(value, graph, depth))
        elif number == 5:
            _constant(value, graph, None)
        elif number == 15:
            raise UsageError("The model holds sparse tensors, which TensorRT does not take. Export the bundle again.")


def _node(data: memoryview, graph: _Graph, depth: int) -> Node:
    node, tensors = Node(), []
    for number, value in _fields(data):
        if number in (1, 2):
            (node.inputs if number == 1 else node.outputs).append(_text(value))
        elif number == 3:
            node.name = _text(value)
        elif number == 4:
            node.kind = _text(value)
        elif number == 7:
            node.domain = _text(value)
        elif number == 5 and isinstance(value, memoryview):
            tensors += _attribute(value, node, graph, depth)
    for tensor in tensors:
        _constant(tensor, graph, node.outputs[0] if node.kind == "Constant" and node.outputs else "")
    graph.half |= node.kind == "Cast" and node.numbers.get("to") == FLOAT16
    return node


def _attribute(data: memoryview, node: Node, graph: _Graph, depth: int) -> list[memoryview]:
    """The tensors of one attribute; graphs are walked, integers kept in ``node``."""
    name, tensors = "", []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 3 and isinstance(value, int):
            node.numbers[name] = value
        elif number in (5, 10) and isinstance(value, memoryview):
            tensors.append(value)
        elif number in (6, 11) and isinstance(value, memoryview):
            graph.nested = True
            _walk(value, graph, depth + 1)
    return tensors


def _constant(data: memoryview, graph: _Graph, name: str | None) -> None:
    """Keep one tensor under ``name``, None for its own; those of attributes have none, as no node reads them."""
    kind = 0
    values: list[tuple[int, Value]] = []
    for number, value in _fields(data):
        if number == 2 and isinstance(value, int):
            kind = value
        elif number in (FLOATS, INTEGERS, RAW):
            values.append((number, value))
        elif number == 8 and name is None:
            name = _text(value)
        elif number == 13 or (number == 14 and value == 1):
            raise UnsafeInput("The model keeps its weights in another file, which is refused. Export it as one file.")
    graph.half |= kind == FLOAT16
    if name:
        if name in graph.constants:  # one of them would be judged, and the other one read
            raise UsageError(f"The model holds two constants called {name!r:.60}. Export the bundle again.")
        graph.constants[name] = Tensor(kind, tuple(values))
