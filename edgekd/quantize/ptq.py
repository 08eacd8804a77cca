"""Post-training quantisation: capture, fold, place, calibrate, insert."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from edgekd.errors import UsageError
from edgekd.quantize.calibrators import SCALE_FLOORS
from edgekd.quantize.config import PtqConfig
from edgekd.quantize.fake import ActivationQuantizer, WeightQuantizer
from edgekd.quantize.graph import attribute, capture, clean, fold_batch_norms
from edgekd.quantize.images import select
from edgekd.quantize.observe import ranges
from edgekd.quantize.placement import Plan, place
from edgekd.types import Model

if TYPE_CHECKING:
    from edgekd.data import ImageSet


class QuantizedNetwork(nn.Module):
    """The fake-quantised twin: pixels [N, C, H, W] in [0, 1] in, logits [N, K] out, exportable to Q/DQ ONNX.

    ``flavour`` tells the exporter which integers these are; ``float_layers`` say what stayed float and why; ``layers``
    names the quantisers of every quantised layer's input and weight.
    """

    def __init__(
        self, network: fx.GraphModule, flavour: str, float_layers: tuple[str, ...], layers: dict[str, tuple[str, str]]
    ) -> None:
        super().__init__()
        self.network = network
        self.flavour = flavour
        self.float_layers = float_layers
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


def ptq(model: Model, calibration: ImageSet, config: PtqConfig) -> Model:
    """The fake-quantised twin of ``model``, with scales set on clean real images [N, C, H, W] uint8.

    The model itself is left as it was. Raises UsageError when the calibration images are too few or noise, when the
    network cannot be captured, or when ``keep_float`` names a layer that is not there.
    """
    return quantize(model, calibration, config, dict.fromkeys(config.keep_float, "kept float on request"))


def quantize(model: Model, calibration: ImageSet, config: PtqConfig, keep_float: Mapping[str, str]) -> Model:
    """``ptq`` with a reason for every layer that must stay float."""
    images = select(calibration.images, config.images, config.seed)
    if images.shape[1:] != model.spec.input.shape:
        raise UsageError(
            f"The calibration images are {tuple(images.shape[1:])}, but the network takes {model.spec.input.shape}."
        )
    captured = capture(model)
    # onnxruntime would leave the integers and come back around every norm; TensorRT fuses float norms into neighbours
    norms = fold_batch_norms(captured, as_layers=config.flavour == "u8s8")
    names = {node.meta["layer"] for node in captured.graph.nodes if "layer" in node.meta}
    if unknown := sorted(set(keep_float) - names):
        raise UsageError(
            f"keep_float names {unknown[0]!r}, which the network does not have. Its layers: {', '.join(sorted(names))}."
        )
    plan = place(captured, config.flavour, norms=norms, keep_float=keep_float, last=config.quantize_last)
    limits = ranges(captured, plan.groups, images, config.calibrator)
    _insert_activations(captured, plan, limits)
    layers = _insert_weights(captured, plan, config)
    for node in captured.graph.nodes:
        node.meta.clear()  # fake tensors, which can be neither copied nor saved
    clean(captured)
    twin = QuantizedNetwork(captured, config.flavour, plan.float_layers, layers)
    return dataclasses.replace(model, module=twin.eval())


def _insert_activations(captured: fx.GraphModule, plan: Plan, limits: list[tuple[float, float]]) -> None:
    """Put a quantiser between every planned value and its readers, one for all values of a group."""
    device = next((p.device for p in captured.parameters()), torch.device("cpu"))
    for group, limit in zip(plan.groups, limits, strict=True):
        name = f"quantize_{group.nodes[0].name}"
        captured.add_submodule(name, ActivationQuantizer(limit, group.symmetric).to(device))
        for node in group.nodes:
            with captured.graph.inserting_after(node):
                inserted = captured.graph.call_module(name, (node,))
            for user in tuple(node.users):
                if user in plan.readers:
                    user.replace_input_with(node, inserted)


def _insert_weights(captured: fx.GraphModule, plan: Plan, config: PtqConfig) -> dict[str, tuple[str, str]]:
    """Put a quantiser behind every planned layer's weight; returns the quantisers' names by layer."""
    names = {}
    for layer in plan.layers:
        source, weight, bias = (*layer.args[:3], None)[:3]
        assert isinstance(source, fx.Node)
        assert isinstance(weight, fx.Node)
        floor = torch.tensor(SCALE_FLOORS[config.flavour])
        if config.flavour == "u8s8" and isinstance(bias, fx.Node):
            # onnxruntime holds the bias in int32 at the scale of the products: it must not overflow there
            input_scale = attribute(captured, f"{source.target}.scale")
            least = attribute(captured, str(bias.target)).detach().abs() / (input_scale * 2.0**30)
            floor = least.clamp(min=float(floor))
        name = f"quantize_weight_{layer.name}"
        stored = attribute(captured, str(weight.target))
        captured.add_submodule(name, WeightQuantizer(stored, floor, config.reduce_range))
        with captured.graph.inserting_before(layer):
            layer.update_arg(1, captured.graph.call_module(name, (weight,)))
        names[layer.meta["layer"]] = (str(source.target), name)
    return names
