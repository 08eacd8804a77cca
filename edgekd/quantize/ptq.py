"""Post-training quantisation: capture, fold, place, calibrate, insert."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, fx, nn

from edgekd.errors import UsageError
from edgekd.quantize.calibrators import SCALE_FLOOR
from edgekd.quantize.fake import ActivationQuantizer, WeightQuantizer
from edgekd.quantize.graph import attribute, capture, clean, fold_batch_norms
from edgekd.quantize.images import select
from edgekd.quantize.observe import ranges
from edgekd.quantize.placement import Plan, place
from edgekd.types import Model

if TYPE_CHECKING:
    from edgekd.data import ImageSet


class PtqConfig(BaseModel):
    """How a network is quantised without training.

    flavour: "s8" (symmetric, for TensorRT) or "u8s8" (for onnxruntime on CPU). images: how many calibrate.
    quantize_last: whether the layer that makes the logits is quantised. keep_float: layers that must stay float.
    reduce_range: seven-bit weights, for x86 processors older than AVX512-VNNI and AVX-VNNI, whose eight-bit
    multiplications saturate with uint8 activations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flavour: Literal["s8", "u8s8"] = "u8s8"
    calibrator: Literal["max", "percentile", "entropy", "mse"] = "mse"
    images: int = Field(512, ge=32)
    quantize_last: bool = True
    keep_float: tuple[str, ...] = ()
    reduce_range: bool = False
    seed: int = 0


class QuantizedNetwork(nn.Module):
    """The fake-quantised twin: pixels [N, C, H, W] in [0, 1] in, logits [N, K] out, exportable to Q/DQ ONNX.

    ``flavour`` tells the exporter which integers these are; ``float_layers`` say what stayed float and why.
    """

    def __init__(self, network: fx.GraphModule, flavour: str, float_layers: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.flavour = flavour
        self.float_layers = float_layers

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


def ptq(model: Model, calibration: ImageSet, config: PtqConfig) -> Model:
    """The fake-quantised twin of ``model``, with scales set on clean real images [N, C, H, W] uint8.

    The model itself is left as it was. Raises UsageError when the calibration images are too few or noise, when the
    network cannot be captured, or when ``keep_float`` names a layer that is not there.
    """
    images = select(calibration.images, config.images, config.seed)
    if images.shape[1:] != model.spec.input.shape:
        raise UsageError(
            f"The calibration images are {tuple(images.shape[1:])} and the network takes {model.spec.input.shape}."
        )
    captured = capture(model)
    norms = fold_batch_norms(captured)
    names = {node.meta["layer"] for node in captured.graph.nodes if "layer" in node.meta}
    if unknown := sorted(set(config.keep_float) - names):
        raise UsageError(
            f"keep_float names {unknown[0]!r}, which the network does not have. Its layers: {sorted(names)}."
        )
    plan = place(captured, config.flavour, norms=norms, keep_float=config.keep_float, last=config.quantize_last)
    limits = ranges(captured, plan.groups, images, config.calibrator)
    scales = _insert_activations(captured, plan, limits)
    _insert_weights(captured, plan, scales, config)
    for node in captured.graph.nodes:
        node.meta.clear()  # fake tensors, which can be neither copied nor saved
    clean(captured)
    return dataclasses.replace(model, module=QuantizedNetwork(captured, config.flavour, plan.float_layers).eval())


def _insert_activations(
    captured: fx.GraphModule, plan: Plan, limits: list[tuple[float, float]]
) -> dict[fx.Node, Tensor]:
    """Put a quantiser behind every planned value; returns each value's scale."""
    device = next((p.device for p in captured.parameters()), torch.device("cpu"))
    scales: dict[fx.Node, Tensor] = {}
    for group, limit in zip(plan.groups, limits, strict=True):
        name = f"quantize_{group.nodes[0].name}"
        quantizer = ActivationQuantizer(limit, group.symmetric).to(device)
        captured.add_submodule(name, quantizer)
        for node in group.nodes:
            with captured.graph.inserting_after(node):
                inserted = captured.graph.call_module(name, (node,))
            for user in tuple(node.users):
                if user is not inserted and user.op != "output":
                    user.replace_input_with(node, inserted)
            scales[inserted] = quantizer.scale
    return scales


def _insert_weights(captured: fx.GraphModule, plan: Plan, scales: dict[fx.Node, Tensor], config: PtqConfig) -> None:
    for layer in plan.layers:
        source, weight, bias = (*layer.args[:3], None)[:3]
        assert isinstance(source, fx.Node)
        assert isinstance(weight, fx.Node)
        floor: Tensor | float = SCALE_FLOOR
        if config.flavour == "u8s8" and isinstance(bias, fx.Node):
            # onnxruntime holds the bias in int32 at the scale of the products: it must not overflow there
            floor = attribute(captured, str(bias.target)).detach().abs() / (scales[source] * 2.0**30)
        name = f"quantize_weight_{layer.name}"
        captured.add_submodule(
            name, WeightQuantizer(attribute(captured, str(weight.target)), floor, config.reduce_range)
        )
        with captured.graph.inserting_before(layer):
            layer.update_arg(1, captured.graph.call_module(name, (weight,)))
