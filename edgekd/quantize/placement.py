"""Which tensors become integers, by flavour, and which of them share one scale.

"s8" is what TensorRT fuses best: quantised inputs and weights of convolutions and linear layers, and the shortcut input
of an addition; nothing between convolution, batch norm and activation, nothing on the main branch, nothing on biases
(NVIDIA, "Working with quantized types"). "u8s8" is what onnxruntime's CPU kernels fuse: a convolution, linear layer,
addition or pooling needs its output quantised as well, behind the ReLU that the integers' lower end replaces.
In "s8" what computes in float, a norm or a layer kept float, reads a tensor as it was before it became integers for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import fx

from edgekd.quantize.graph import CONVOLUTIONS, aten

LINEAR = aten.linear.default
WEIGHTED = (*CONVOLUTIONS, LINEAR)
ADDITION = aten.add.Tensor
POOLINGS = (aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim)
# operators whose result holds nothing but values of their input (or zero)
SAME_SCALE = (
    aten.max_pool2d.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.slice.Tensor,
    aten.select.int,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.cat.default,
    aten.pad.default,
    aten.constant_pad_nd.default,
)
_ON_INTEGERS = (aten.max_pool2d.default, aten.cat.default)  # have integer kernels of their own
_FLOAT_ONLY = {
    aten.conv1d.default: "only two-dimensional convolutions are quantised",
    aten.conv3d.default: "only two-dimensional convolutions are quantised",
    aten.conv_transpose2d.input: "transposed convolutions are not quantised",
    aten.matmul.default: "a product of two activations is not quantised",
    aten.bmm.default: "a product of two activations is not quantised",
    aten.scaled_dot_product_attention.default: "attention is not quantised",
}


@dataclass
class Group:
    """Tensors that share one scale. ``roots`` are those that are watched; ``pixels``: affine in the input's pixels."""

    nodes: list[fx.Node]
    symmetric: bool
    roots: list[fx.Node] = field(default_factory=list)
    pixels: bool = False


@dataclass(frozen=True)
class Plan:
    """What to quantise: layers by their weights, groups by their values; and what stays float, with the reason.

    readers: the nodes that read a quantised value as integers; any other reads it as it was.
    """

    layers: tuple[fx.Node, ...]
    groups: tuple[Group, ...]
    readers: frozenset[fx.Node]
    float_layers: tuple[str, ...]


def place(
    captured: fx.GraphModule,
    flavour: str,
    *,
    norms: Iterable[str] = (),
    keep_float: Mapping[str, str] = MappingProxyType({}),
    last: bool = True,
) -> Plan:
    """Decide for a captured graph with folded batch norms.

    norms: batch norms that could not be folded, for the report. keep_float: layers that must stay float, and why.
    last: whether the layer that makes the logits is quantised too.
    """
    layers, left = _layers(captured, keep_float, last)
    reasons = [f"{name}: batch norm without a preceding layer to fold it into" for name in norms]
    symmetric = flavour == "s8"
    wanted = _wanted_s8(captured, layers) if symmetric else _wanted_u8s8(captured, layers)
    _widen(captured, wanted)
    readers = (
        _readers_s8(captured, layers, wanted) if symmetric else {n for n in captured.graph.nodes if n.op != "output"}
    )
    return Plan(tuple(layers), tuple(_groups(captured, wanted, symmetric)), frozenset(readers), (*left, *reasons))


def _layers(captured: fx.GraphModule, keep_float: Mapping[str, str], last: bool) -> tuple[list[fx.Node], list[str]]:
    layers, left = [], []
    for node in captured.graph.nodes:
        if node.target in WEIGHTED:
            name = node.meta["layer"]
            if not (isinstance(node.args[1], fx.Node) and node.args[1].op == "get_attr"):
                left.append(f"{name}: its weight is computed, not stored")
            elif name in keep_float:
                left.append(f"{name}: {keep_float[name]}")
            elif not last and _makes_logits(node):
                left.append(f"{name}: the last layer was kept float on request")
            else:
                layers.append(node)
        elif node.target in _FLOAT_ONLY:
            left.append(f"{node.name}: {_FLOAT_ONLY[node.target]}")
    return layers, left


def _makes_logits(node: fx.Node) -> bool:
    """Whether only pooling and reshaping stand between a layer and the graph's output."""
    while len(node.users) == 1:
        (user,) = node.users
        if user.op == "output":
            return True
        if user.target not in (*SAME_SCALE, *POOLINGS):
            return False
        node = user
    return False


def _wanted_s8(captured: fx.GraphModule, layers: list[fx.Node]) -> set[fx.Node]:
    depth = _depths(captured, layers)
    wanted = {_input(layer) for layer in layers}
    for node in captured.graph.nodes:
        if _adds_features(node):
            straight = [a for a in node.args[:2] if a in layers and len(a.users) == 1]
            if straight:  # the deeper convolution is the main branch: its kernel adds the other side in
                main = max(straight, key=depth.__getitem__)
                wanted |= {a for a in node.args[:2] if a is not main}
        elif _pools(node) and _made_by_integers(_input(node), layers):
            wanted.add(_input(node))
    return wanted


def _readers_s8(captured: fx.GraphModule, layers: list[fx.Node], wanted: set[fx.Node]) -> set[fx.Node]:
    """What computes on integers, and what moves them to where somebody does."""
    readers: set[fx.Node] = set()
    for node in reversed(list(captured.graph.nodes)):
        moves = _moves_values(node) and (node in wanted or any(user in readers for user in node.users))
        if moves or node in layers or _adds_features(node) or _pools(node):
            readers.add(node)
    return readers


def _depths(captured: fx.GraphModule, layers: list[fx.Node]) -> dict[fx.Node, int]:
    """How many quantised layers lie on the longest way from the input to each node."""
    depth: dict[fx.Node, int] = {}
    for node in captured.graph.nodes:
        depth[node] = max((depth[source] for source in node.all_input_nodes), default=0) + (node in layers)
    return depth


def _wanted_u8s8(captured: fx.GraphModule, layers: list[fx.Node]) -> set[fx.Node]:
    wanted: set[fx.Node] = set()
    for node in captured.graph.nodes:
        if node in layers:
            wanted |= {_input(node), _behind_relu(node)}
        elif _adds_features(node):
            wanted |= {*node.args[:2], _behind_relu(node)}
        elif _pools(node) and _input(node) in wanted:
            wanted |= {_input(node), node}
    return {node for node in wanted if not any(user.op == "output" for user in node.users)}


def _input(node: fx.Node) -> fx.Node:
    value = node.args[0]
    assert isinstance(value, fx.Node)
    return value


def _adds_features(node: fx.Node) -> bool:
    """Whether a node adds two feature maps of one shape; adding a constant or a scaled term is something else."""
    if node.target is not ADDITION or node.kwargs:
        return False
    one, other = node.args[:2]
    if not (isinstance(one, fx.Node) and isinstance(other, fx.Node)):
        return False
    if "get_attr" in (one.op, other.op):
        return False
    return _shape(one) == _shape(other) and len(_shape(one)) == 4


def _pools(node: fx.Node) -> bool:
    if node.target is aten.mean.dim:
        dims: Any = node.args[1]
        return len(_shape(_input(node))) == 4 and sorted(d % 4 for d in dims) == [2, 3]
    return node.target in POOLINGS


def _shape(node: fx.Node) -> tuple[str, ...]:
    return tuple(str(size) for size in node.meta["val"].shape)


def _behind_relu(node: fx.Node) -> fx.Node:
    """The activation that does nothing but cut at zero (and perhaps above) behind a node, else the node itself."""
    if len(node.users) == 1:
        (user,) = node.users
        clamps = user.target in (aten.hardtanh.default, aten.clamp.default) and user.args[1:2] == (0,)
        cuts = clamps or user.target in (aten.relu.default, aten.relu6.default)
        if cuts:
            return user
    return node


def _made_by_integers(node: fx.Node, layers: list[fx.Node]) -> bool:
    """Whether a value comes out of a quantised layer or a sum, perhaps through a ReLU."""
    before = node.args[0] if node.op == "call_function" else None
    source = before if isinstance(before, fx.Node) and _behind_relu(before) is node else node
    return source in layers or _adds_features(source)


def _moves_values(node: fx.Node) -> bool:
    if node.target not in SAME_SCALE:
        return False
    if node.target in (aten.pad.default, aten.constant_pad_nd.default):
        mode_and_value = [a for a in node.args[2:] if a not in ("constant", None)]
        return all(v == 0 for v in mode_and_value) and not node.kwargs
    return True


def _sources(node: fx.Node, wanted: set[fx.Node]) -> list[fx.Node]:
    """Where the values of a quantised, moved tensor come from, past moves that nothing else asks to quantise."""
    parts: Any = node.args[0] if node.target is aten.cat.default else [_input(node)]
    found = []
    for source in parts:
        while _moves_values(source) and source not in wanted and source.target not in _ON_INTEGERS:
            source = _input(source)
        found.append(source)
    return found


def _widen(captured: fx.GraphModule, wanted: set[fx.Node]) -> None:
    """What is moved into a quantised tensor is quantised before it is moved, so that integers are moved."""
    for node in reversed(list(captured.graph.nodes)):
        if node in wanted and _moves_values(node):
            wanted.update(_sources(node, wanted))


def _groups(captured: fx.GraphModule, wanted: set[fx.Node], symmetric: bool) -> list[Group]:
    pixels = _affine_in_pixels(captured)
    member: dict[fx.Node, Group] = {}
    groups: list[Group] = []
    for node in captured.graph.nodes:
        if node not in wanted:
            continue
        sources = [s for s in _sources(node, wanted) if s in member] if _moves_values(node) else []
        if not sources:
            member[node] = Group([node], symmetric, [node], node in pixels)
            groups.append(member[node])
            continue
        first = member[sources[0]]
        for other in {id(member[s]): member[s] for s in sources[1:] if member[s] is not first}.values():
            first.nodes += other.nodes
            first.roots += other.roots
            first.pixels &= other.pixels
            groups.remove(other)
            member.update(dict.fromkeys(other.nodes, first))
        first.nodes.append(node)
        member[node] = first
    return groups


def _affine_in_pixels(captured: fx.GraphModule) -> set[fx.Node]:
    """The input and what normalisation makes of it."""
    affine: set[fx.Node] = set()
    arithmetic = (aten.sub.Tensor, aten.div.Tensor, aten.mul.Tensor, aten.add.Tensor)
    for node in captured.graph.nodes:
        moved = node.target in SAME_SCALE and node.target is not aten.cat.default
        if node.op == "placeholder" or ((moved or node.target in arithmetic) and node.args[0] in affine):
            others = [a for a in node.args[1:] if isinstance(a, fx.Node)]
            if all(a.op == "get_attr" for a in others) or moved:
                affine.add(node)
    return affine
