"""Quantisation-aware distillation: the FP32 student teaches its fake-quantised twin what rounding took away.

Batch norms are as the twin has them, folded into weights or with the FP32 student's statistics: what learns are the very
numbers that ship, and no later folding moves them off the integers. Rounding lets gradients straight through (Bengio et al.
2013, arXiv:1308.3432); with "lsq" the scales learn as well. Distilling a quantised network from its own full-precision
self follows Esser et al. 2020 (section 3.7), who add the labels with equal weight; here they have none by default.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgekd.data import Batches
from edgekd.data.batches import Augment
from edgekd.errors import UsageError
from edgekd.losses import soft_target_kl
from edgekd.models import weights_sha256
from edgekd.quantize.calibrators import SCALE_FLOORS
from edgekd.quantize.config import QadConfig
from edgekd.quantize.fake import WeightQuantizer
from edgekd.quantize.graph import attribute
from edgekd.quantize.guard import Guarded
from edgekd.quantize.lsq import LearnedStep, keep_steps, learn_steps
from edgekd.quantize.ptq import QuantizedNetwork
from edgekd.training import Method, Progress, TrainConfig, fit
from edgekd.training.chunks import Chunks
from edgekd.training.device import place, resolve_device
from edgekd.types import Model, TrainLog

if TYPE_CHECKING:
    from edgekd.data import Batch, ImageSet

ROUND = 100  # steps between two checkpoints
CLIP = 1.0  # of the gradient's length: near the student it is far below; folded weights have no norm that holds a leap


class Refined(NamedTuple):
    """What ships after the guard and, perhaps, a distillation; log: of the latter, its ``method`` says what came of it."""

    twin: Model
    kept: bool  # whether the twin is the distilled one
    log: TrainLog | None


class QuantizationAwareDistillation(Method):
    """T² · KL(FP32 student ‖ twin), and ce_weight · CE where labels are asked for; the teacher is in eval mode.

    With "lsq" the twin's scales are parameters from the start, until ``finish`` puts its quantisers back.
    """

    def __init__(self, config: QadConfig, teacher: nn.Module, twin: QuantizedNetwork) -> None:
        self.config, self.teacher, self.twin = config, teacher, twin
        self.layers = _layers(twin)
        self.replaced = learn_steps(twin.network) if config.kind == "lsq" else {}

    def finish(self) -> None:
        """Leave the twin as a twin made by ``ptq``, with the weights and scales that were learned."""
        keep_steps(self.twin.network, self.replaced)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = self.teacher(batch.images)
        logits = self.twin(batch.images)
        terms = {"kl": soft_target_kl(logits, wanted, self.config.temperature)}
        if self.config.ce_weight:
            terms["ce"] = self.config.ce_weight * F.cross_entropy(logits.float(), batch.labels)
        return terms

    def update(self, step: Callable[[], None]) -> None:
        nn.utils.clip_grad_norm_(self.twin.parameters(), CLIP)
        step()
        self._bound()

    @torch.no_grad()
    def _bound(self) -> None:
        """Scales stay positive and large enough for the bias in int32, weights within the integers."""
        network = self.twin.network
        for module in network.children():
            if isinstance(module, LearnedStep):
                module.scale.clamp_(min=SCALE_FLOORS[self.twin.flavour])
        for layer in self.layers:
            scale, weight = attribute(network, f"{layer.quantizer}.scale"), attribute(network, layer.weight)
            if self.twin.flavour == "u8s8" and layer.bias is not None:
                bias, of_input = attribute(network, layer.bias), attribute(network, f"{layer.input}.scale")
                scale.copy_(torch.maximum(scale, bias.abs() / (of_input * 2.0**30)))
            low, high = layer.bounds
            along = scale.view(-1, *[1] * (weight.dim() - 1))
            weight.copy_(torch.minimum(torch.maximum(weight, low * along), high * along))


class _Layer(NamedTuple):
    """A quantised layer by the names of its parts."""

    quantizer: str
    input: str
    weight: str
    bias: str | None
    bounds: tuple[int, int]


def _layers(twin: QuantizedNetwork) -> list[_Layer]:
    modules, found = dict(twin.network.named_children()), []
    for node in twin.network.graph.find_nodes(op="call_module"):
        quantizer = modules[str(node.target)]
        if isinstance(quantizer, WeightQuantizer):
            (layer,) = node.users
            source, _, bias = (*layer.args[:3], None)[:3]
            names = [n.target if isinstance(n, fx.Node) else None for n in (source, node.args[0], bias)]
            of_input, weight, of_bias = (None if name is None else str(name) for name in names)
            assert of_input is not None
            assert weight is not None
            found.append(_Layer(str(node.target), of_input, weight, of_bias, quantizer.bounds))
    return found


def wanted(guarded: Guarded, config: QadConfig) -> bool:
    """Whether a twin is to be distilled."""
    return config.when == "always" or (config.when == "auto" and not guarded.met)


def refine(
    model: Model,
    guarded: Guarded,
    images: ImageSet,
    config: QadConfig,
    evaluate: Callable[[nn.Module], float],
    *,
    seed: int = 0,
    device: str = "cpu",
    augment: Augment = "crop-flip",
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Refined:
    """The guard's twin, or the one distilled from it where that was wanted and ``evaluate`` says that it is better.

    model: the FP32 student, left as it was. images: what it learned from, uint8 [N, C, H, W]. evaluate: as in ``guard``.
    folder: a run that was killed there continues, on the CPU to the same bits. Raises what ``training.fit`` raises.
    """
    if not wanted(guarded, config):
        return Refined(guarded.twin, False, None)
    twin, log = distil(
        model, guarded.twin, images, config, seed=seed, device=device, augment=augment, folder=folder, progress=progress
    )
    after = evaluate(twin.module)
    found = {
        "flavour": _network(twin).flavour,
        **config.model_dump(mode="json", include={"kind", "temperature", "ce_weight", "lr"}),
        "images": {"count": len(images), "sha256": images.sha256},
        "float": guarded.exact,
        "wanted": guarded.wanted,
        "before": guarded.reached,
        "after": after,
        "kept": after > guarded.reached,
    }
    log = dataclasses.replace(log, method={"qad": found})
    return Refined(twin if found["kept"] else guarded.twin, bool(found["kept"]), log)


def distil(
    model: Model,
    twin: Model,
    images: ImageSet,
    config: QadConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    augment: Augment = "crop-flip",
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Model, TrainLog]:
    """A copy of the twin after distillation from ``model``; both are left as they were. The rest is as in ``refine``."""
    where = resolve_device(device)
    student = copy.deepcopy(_network(twin))
    start = weights_sha256(student.state_dict())
    teacher = copy.deepcopy(model.module).eval().requires_grad_(False)
    place(teacher, where)
    method = QuantizationAwareDistillation(config, teacher, student)
    rounds = -(-config.steps // ROUND)
    train = TrainConfig(
        epochs=rounds, batch_size=config.batch_size, lr=config.lr, weight_decay=0.0, nesterov=False, precision="fp32",
        augment=augment, device=device, seed=seed,
    )  # fmt: skip
    batches = Batches(images, config.batch_size, seed=seed, augment=augment, device=where)
    log = fit(
        student,
        method,
        Chunks(batches, -(-config.steps // rounds)),
        train,
        folder=folder,
        progress=progress,
        identity={
            "qad": config.model_dump(mode="json", exclude={"when"}),
            "twin": start,
            "teacher": model.sha256 or weights_sha256(model.module.state_dict()),
            "images": images.sha256,
        },
        what=f"qad {student.flavour}",
    )
    student.to("cpu").to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    method.finish()
    return dataclasses.replace(twin, module=student.eval()), log


def _network(twin: Model) -> QuantizedNetwork:
    if not isinstance(twin.module, QuantizedNetwork):
        raise UsageError("Only a twin made by ptq can be distilled from its FP32 student.")
    return twin.module
