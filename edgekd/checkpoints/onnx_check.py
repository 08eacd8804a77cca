"""An ONNX graph of a stranger, parsed from bytes and held against a list of what edgekd runs; called in the child.

Nothing of the onnx package that takes a path or converts is called on input. Every graph that edgekd exports passes.
What it takes to run is worked out by onnx_sizes.
"""

from __future__ import annotations

from typing import Any

from ..errors import UnsafeInput, UsageError
from .wording import DAMAGED, printable

OPERATORS = frozenset(
    """Abs Add And ArgMax AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv
    ConvTranspose DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf Exp Expand Flatten Floor Gather Gelu Gemm
    GlobalAveragePool GlobalMaxPool Greater GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization
    LayerNormalization LeakyRelu Less Log LogSoftmax MatMul Max MaxPool Min Mish Mod Mul Neg Not Or PRelu Pad Pow
    QuantizeLinear Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize
    Round Selu Shape Sigmoid Sign Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Swish Tanh Tile
    Transpose Trilu Unsqueeze Where Xor""".split()
)
DOMAINS = ("", "ai.onnx")
OPSETS = range(9, 26)
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}  # TensorProto.DataType -> bytes
FLOATS = (1, 10, 11, 16)
GRAPH_BYTES = 512 << 20
NODES = 20_000
ITEMS = 1 << 28
RANK = 8
NAME = 512
ORT_MARK = b"ORTM"  # onnxruntime takes a file with these bytes at its fifth for a flatbuffer of its own
_EXPORT = "Export it as one file of standard operators: torch.onnx.export(..., dynamo=True, external_data=False)."


def check(data: bytes) -> dict[str, Any]:
    """Facts of the graph in ``data``: opset, input, output, operators with their counts; raises as ``read`` does."""
    return read(data)[1]


def read(data: bytes) -> tuple[Any, dict[str, Any]]:
    """The graph in ``data`` as onnx.ModelProto, and its facts.

    Raises UnsafeInput for external data, custom operators, sub-graphs, sizes that do not add up and a second graph for
    onnxruntime, UsageError for damage and for graphs that are not one image in, one vector out.
    """
    if len(data) > GRAPH_BYTES:
        raise UnsafeInput(f"It has {len(data)} bytes; ONNX graphs over {GRAPH_BYTES} are not read.")
    if data[4:8] == ORT_MARK:
        raise UnsafeInput(
            "It carries the mark of onnxruntime's own format, so onnxruntime would run a different graph from "
            f"the one that an ONNX reader sees. {_EXPORT}"
        )
    model = _parsed(data)
    if model.functions or model.training_info:
        raise UnsafeInput(f"It carries functions or training code of its own. {_EXPORT}")
    opset = _opset(model)
    graph = model.graph
    if not graph.node:
        raise UsageError(f"It holds no operators. {DAMAGED}")
    if len(graph.node) > NODES or len(graph.initializer) > NODES or graph.sparse_initializer:
        raise UnsafeInput(f"It has more than {NODES} operators or tensors, or sparse ones. {_EXPORT}")
    sizes = _Sizes()
    constants = _constants(graph, sizes)
    operators = _operators(graph, constants, sizes)
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise UsageError(
            f"It has {len(inputs)} inputs and {len(graph.output)} outputs; a classifier of images has one of each."
        )
    return model, {
        "opset": opset,
        "operators": dict(sorted(operators.items())),
        "input": _signature(inputs[0]),
        "output": _signature(graph.output[0]),
    }


def _parsed(data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.ModelProto.FromString(data)
    except (DecodeError, RuntimeError) as error:
        raise UsageError(f"It is not an ONNX file. {DAMAGED}") from error


def _opset(model: Any) -> int:
    """The version of the standard operators; other sets may be named as long as no node uses them."""
    found = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
    if len(found) != 1 or found[0] not in OPSETS:
        raise UsageError(f"Its operator set is {found or 'missing'}; {OPSETS.start} to {OPSETS.stop - 1} are read.")
    return int(found[0])


def _constants(graph: Any, sizes: _Sizes) -> set[str]:
    names: set[str] = set()
    for tensor in graph.initializer:
        if not tensor.name or len(tensor.name) > NAME or tensor.name in names:
            raise UsageError(f"The tensor name {printable(tensor.name, 40)!r} is empty, too long or appears twice.")
        names.add(tensor.name)
        sizes.check(tensor)
    return names


def _operators(graph: Any, constants: set[str], sizes: _Sizes) -> dict[str, int]:
    """Count the operators; raises for those not in the list, sub-graphs, and values used before they are made."""
    made = constants | {value.name for value in graph.input}
    counts: dict[str, int] = {}
    for node in graph.node:
        name = printable(f"{node.domain}::{node.op_type}" if node.domain else node.op_type, 80)
        if node.domain not in DOMAINS or node.overload:
            raise UnsafeInput(f"It uses {name}, a custom operator, whose code only its author has. {_EXPORT}")
        for attribute in node.attribute:
            _attribute(attribute, name, sizes)
        if node.op_type not in OPERATORS:
            raise UnsafeInput(f"It uses the operator {name}, which edgekd does not run in a teacher. {_EXPORT}")
        if any(value and value not in made for value in node.input):
            raise UsageError(f"An operator {name} uses a value that nothing made before it. {DAMAGED}")
        for value in node.output:
            if value in made or len(value) > NAME:
                raise UsageError(f"The value name {printable(value, 40)!r} is too long or appears twice. {DAMAGED}")
            if value:
                made.add(value)
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    if any(value.name not in made for value in graph.output):
        raise UsageError(f"No operator makes its output. {DAMAGED}")
    return counts


def _attribute(attribute: Any, operator: str, sizes: _Sizes) -> None:
    if attribute.HasField("g") or attribute.graphs:
        raise UnsafeInput(f"The operator {operator} holds a graph of its own (a branch or a loop). {_EXPORT}")
    odd = (attribute.sparse_tensor.ByteSize(), attribute.sparse_tensors, attribute.ref_attr_name, attribute.type_protos)
    if any(odd) or attribute.HasField("tp"):
        raise UnsafeInput(f"The operator {operator} has an attribute of an unusual kind. {_EXPORT}")
    lengths = ((attribute.ints, 4096), (attribute.floats, 4096), (attribute.s, 65536), (attribute.strings, 64))
    if any(len(values) > most for values, most in lengths):
        raise UnsafeInput(f"The operator {operator} has an attribute of an unusual size. {_EXPORT}")
    if attribute.HasField("t"):
        sizes.check(attribute.t)
    for tensor in attribute.tensors:
        sizes.check(tensor)


class _Sizes:
    """Holds every tensor's claim against its bytes, and the sum of all against the limit."""

    def __init__(self) -> None:
        self.total = 0

    def check(self, tensor: Any) -> None:
        """Raises UnsafeInput for external data and sizes that lie, UsageError for numbers that are not finite."""
        name = printable(tensor.name, 60)
        if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
            place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "?")
            raise UnsafeInput(
                f"Its tensor {name!r} lies in another file ({printable(place, 80)}): external data could name any "
                f"file on this machine. {_EXPORT}"
            )
        if tensor.data_type not in ITEM_BYTES or tensor.HasField("segment") or tensor.string_data:
            raise UsageError(f"Its tensor {name!r} is of a type ({tensor.data_type}) that is not read.")
        count = self._count(tensor, name)
        self.total += count * ITEM_BYTES[tensor.data_type]
        if self.total > GRAPH_BYTES:
            raise UnsafeInput(f"Its tensors take more than {GRAPH_BYTES} bytes.")
        filled = [
            len(values)
            for values in (
                tensor.float_data,
                tensor.int32_data,
                tensor.int64_data,
                tensor.double_data,
                tensor.uint64_data,
            )
            if values
        ]
        raw = len(tensor.raw_data)
        if raw:
            agrees = not filled and raw == count * ITEM_BYTES[tensor.data_type]
        else:
            agrees = filled == ([count] if count else [])
        if not agrees:
            raise UnsafeInput(f"Its tensor {name!r} holds more or fewer numbers than its shape says: the file lies.")
        if tensor.data_type in FLOATS and count:
            self._finite(tensor, name)

    def _count(self, tensor: Any, name: str) -> int:
        count = 1
        for size in tensor.dims:
            count *= size
            if size < 0 or count > ITEMS or len(tensor.dims) > RANK:
                raise UnsafeInput(f"The shape of tensor {name!r} is negative or too large.")
        return count

    def _finite(self, tensor: Any, name: str) -> None:
        import numpy as np
        import onnx.numpy_helper

        with np.errstate(invalid="ignore"):  # some NaNs complain on their way to float64
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        if np.isnan(values).any() or (
            values.size > 1 and np.isinf(values).any()
        ):  # one infinity may be a bound of Clip
            raise UsageError(f"Its tensor {name!r} holds NaN or infinite numbers; the network is broken.")


def _signature(value: Any) -> dict[str, Any]:
    """Name, type and shape of an input or an output; None stands for a free size."""
    if not value.type.HasField("tensor_type"):
        raise UsageError(f"Its value {printable(value.name, 60)!r} is not a tensor.")
    tensor = value.type.tensor_type
    shape = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
    if len(shape) > RANK or any(size is not None and not 0 <= size <= ITEMS for size in shape):
        raise UsageError(f"The shape of its value {printable(value.name, 60)!r} is malformed.")
    return {"name": printable(value.name, NAME), "type": int(tensor.elem_type), "shape": shape}
