"""A network as a flat ATen graph that can be rewritten: captured with a free batch size, batch norms folded.

Works on any module that torch.export accepts, the user's own included; the module itself is left as it was.
"""

from __future__ import annotations

import operator
import warnings
from typing import Any

import torch
from torch import fx, nn

from edgekd.errors import UsageError
from edgekd.types import Model

aten = torch.ops.aten

CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
_NOTHING_IN_EVAL = (aten.clone.default, aten.alias.default, aten.detach.default, aten.dropout.default)


def capture(model: Model) -> fx.GraphModule:
    """The network as ATen calls without in-place operators: pixels [N, C, H, W] in, logits [N, K] out.

    Parameters are copies. Every node keeps its shape in ``meta["val"]``. Raises UsageError when the network depends on
    the batch size or on the values it sees, or returns something else than logits.
    """
    module = model.module.eval()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    images = torch.rand(2, *model.spec.input.shape, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with warnings.catch_warnings():
            # torch's own copying of tree specifications trips over torch's own deprecation
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
            flat = program.run_decompositions({}).module(check_guards=False)
    except Exception as error:  # torch.export raises a dozen types; the first line says what it stumbled over
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"The network {model.spec.arch} cannot be captured as a graph with a free batch size: {reason} "
            "Its forward must not branch on values and must take the batch from x.shape[0], as flatten(1) does."
        ) from error
    graph = fx.Graph()
    outputs: Any = graph.graph_copy(flat.graph, {})
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    if len(outputs) != 1:
        raise UsageError(f"The network {model.spec.arch} returns {len(outputs)} tensors; it must return logits only.")
    graph.output(outputs[0])
    tensors: dict[str, Any] = {}
    for node in graph.find_nodes(op="get_attr"):
        tensor = attribute(flat, str(node.target))
        copy = tensor.detach().clone()
        tensors[str(node.target)] = nn.Parameter(copy) if isinstance(tensor, nn.Parameter) else copy
    for node in graph.nodes:
        if node.target in (*CONVOLUTIONS, aten.linear.default):
            node.meta["layer"] = _layer_name(node)
    captured = fx.GraphModule(tensors, graph)
    _drop_nothings(captured)
    _split_means(captured)
    return captured


def _drop_nothings(captured: fx.GraphModule) -> None:
    """Take out what does nothing in eval mode: dropout and copies.

    A copy may have been there to make a view possible, and images may come in another memory layout: views become
    reshapes, which copy where they must.
    """
    for node in captured.graph.nodes:
        if node.op == "call_function" and node.target in _NOTHING_IN_EVAL:
            node.replace_all_uses_with(node.args[0])
        elif node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
    clean(captured)


def _split_means(captured: fx.GraphModule) -> None:
    """A mean over both spatial axes that drops them becomes one that keeps them, then a reshape that moves integers."""
    for mean in captured.graph.find_nodes(op="call_function", target=aten.mean.dim):
        source, axes, keep = (*mean.args, False)[:3]
        if source.meta["val"].ndim != 4 or sorted(axis % 4 for axis in axes) != [2, 3] or keep:
            continue
        mean.args = (source, [2, 3], True)
        with captured.graph.inserting_after(mean):
            flat = captured.graph.call_function(aten.flatten.using_ints, (mean, 1))
        mean.replace_all_uses_with(flat, lambda user, own=flat: user is not own)
        flat.meta["val"] = mean.meta["val"]
        mean.meta["val"] = flat.meta["val"][:, :, None, None]
    captured.recompile()


def clean(captured: fx.GraphModule) -> None:
    """Drop nodes and tensors that nothing uses any more, and regenerate the code."""
    captured.graph.eliminate_dead_code()
    captured.delete_all_unused_submodules()
    captured.recompile()


def attribute(module: nn.Module, target: str) -> torch.Tensor:
    """The tensor behind a dotted name."""
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor)
    return value


def assign(module: nn.Module, target: str, tensor: torch.Tensor) -> None:
    """Put a parameter behind a dotted name; modules on the way are made."""
    *path, name = target.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    module.register_parameter(name, nn.Parameter(tensor))


def _layer_name(node: fx.Node) -> str:
    """The name a user knows a convolution or linear layer by: its weight's, without the last part."""
    weight = node.args[1]
    if isinstance(weight, fx.Node) and weight.op == "get_attr":
        return str(weight.target).rpartition(".")[0] or str(weight.target)
    return node.name


def fold_batch_norms(captured: fx.GraphModule, *, as_layers: bool = False) -> tuple[str, ...]:
    """Fold every batch norm that directly follows a convolution or linear layer into it, in double precision.

    w' = w * g / sqrt(v + e), b' = (b - m) * g / sqrt(v + e) + beta. Norms in front of a layer (pre-activation networks)
    or behind an activation cannot be folded: with ``as_layers`` they become depthwise 1x1 convolutions, else they stay
    and their names are returned.
    """
    left = []
    for norm in captured.graph.find_nodes(op="call_function", target=BATCH_NORM):
        source = norm.args[0]
        assert isinstance(source, fx.Node)
        if any(user.target is not operator.getitem or user.args[1] != 0 for user in norm.users):
            left.append(_norm_name(norm))
        elif _ends_in(source, norm):
            source.args = (source.args[0], *_folded(captured, norm, source), *source.args[3:])
            _replace(norm, source)
        elif as_layers and source.meta["val"].ndim == 4:
            _replace(norm, _depthwise(captured, norm, source))
        else:
            left.append(_norm_name(norm))
    clean(captured)
    return tuple(left)


def _ends_in(layer: fx.Node, norm: fx.Node) -> bool:
    """Whether a layer with stored weights feeds this norm and nothing else."""
    if layer.target not in (*CONVOLUTIONS, aten.linear.default) or len(layer.users) != 1:
        return False
    weight = layer.args[1]
    return isinstance(weight, fx.Node) and weight.op == "get_attr" and norm in layer.users


def _replace(norm: fx.Node, layer: fx.Node) -> None:
    for user in tuple(norm.users):
        user.replace_all_uses_with(layer)


def _depthwise(captured: fx.GraphModule, norm: fx.Node, source: fx.Node) -> fx.Node:
    """A norm as a 1x1 convolution of every channel by itself: one weight a channel, so int8 holds it exactly."""
    channels = int(source.meta["val"].shape[1])
    weight, bias = _folded(captured, norm, None)
    with captured.graph.inserting_before(norm):
        arguments = (source, weight, bias, [1, 1], [0, 0], [1, 1], channels)
        layer = captured.graph.call_function(aten.conv2d.default, arguments)
    layer.meta = {"val": source.meta["val"], "layer": _norm_name(norm)}
    return layer


def _norm_name(norm: fx.Node) -> str:
    statistics = norm.args[3]
    if isinstance(statistics, fx.Node) and statistics.op == "get_attr":
        return str(statistics.target).rpartition(".")[0]
    return norm.name


def _folded(captured: fx.GraphModule, norm: fx.Node, layer: fx.Node | None) -> list[fx.Node]:
    """Weight and bias of a layer with the norm in it, as new constants; without a layer, those of a 1x1 depthwise."""

    def value(node: Any, default: float) -> torch.Tensor:
        tensor = torch.tensor(default) if node is None else attribute(captured, node.target).detach()
        return tensor.double()

    arguments: tuple[Any, ...] = norm.args
    _, gamma, beta, mean, variance, _, epsilon = arguments
    factor = value(gamma, 1.0) / torch.sqrt(value(variance, 1.0) + epsilon)
    weight, bias = (*layer.args[1:3], None)[:2] if layer else (None, None)
    kernel = value(weight, 1.0) if layer else torch.ones_like(factor).reshape(-1, 1, 1, 1)
    tensors = {
        "weight": kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1)),
        "bias": (value(bias, 0.0) - value(mean, 0.0)) * factor + value(beta, 0.0),
    }
    nodes = []
    with captured.graph.inserting_before(layer or norm):
        for part, tensor in tensors.items():
            target = f"folded.{(layer or norm).name}.{part}"  # not the old name: a weight may serve two layers
            assign(captured, target, tensor.float())
            nodes.append(captured.graph.get_attr(target))
    return nodes
