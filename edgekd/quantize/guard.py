"""The accuracy guard: layers go back to float, the most harmful first, until the INT8 twin is accurate enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from edgekd.errors import UsageError
from edgekd.quantize.config import PtqConfig
from edgekd.quantize.fake import ActivationQuantizer, WeightQuantizer
from edgekd.quantize.images import select
from edgekd.quantize.ptq import QuantizedNetwork, ptq, quantize
from edgekd.types import Model

if TYPE_CHECKING:
    from edgekd.data import ImageSet

_IMAGES = 64


class Guarded(NamedTuple):
    """The most accurate twin that was found; keep: layers that stayed float, with the reason, as ``quantize`` takes them.

    exact, reached: accuracy of the float network and of the twin on validation images, fractions. untried: quantised layers
    that might have been left float too, had ``guard.most_float`` not ended the search before ``wanted`` was reached.
    """

    twin: Model
    keep: dict[str, str]
    exact: float
    reached: float
    wanted: float
    untried: int = 0

    @property
    def met(self) -> bool:
        return self.reached >= self.wanted


def guard(
    model: Model,
    calibration: ImageSet,
    config: PtqConfig,
    evaluate: Callable[[nn.Module], float],
    *,
    what: str = "ACC",
) -> Guarded:
    """``ptq``, with up to ``guard.most_float`` layers left float where accuracy asks for it.

    evaluate: a module to its ACC on validation images, a fraction. Layers go by what they alone cost the logits. When the
    drop cannot be met the most accurate twin is returned.
    """
    exact = evaluate(model.module)
    wanted = exact - config.guard.max_drop
    keep = dict.fromkeys(config.keep_float, "kept float on request")
    twin = ptq(model, calibration, config)
    reached = evaluate(twin.module)
    best = Guarded(twin, dict(keep), exact, reached, wanted)
    order = [name for name, _ in sensitivity(twin, calibration, config)] if not best.met else []
    for name in order[: config.guard.most_float]:
        keep[name] = f"kept float by the accuracy guard: {what} {reached:.2%} with it in INT8, {wanted:.2%} wanted"
        twin = quantize(model, calibration, config, keep)
        reached = evaluate(twin.module)
        if reached > best.reached:
            best = Guarded(twin, dict(keep), exact, reached, wanted)
        if best.met:
            break
    return best if best.met else best._replace(untried=max(len(order) - config.guard.most_float, 0))


@torch.no_grad()
def sensitivity(twin: Model, calibration: ImageSet, config: PtqConfig) -> list[tuple[str, float]]:
    """Layers with the signal-to-noise ratio in dB of the logits when that layer alone is quantised, noisiest first."""
    network = twin.module
    if not isinstance(network, QuantizedNetwork):
        raise UsageError("Only a twin made by ptq has layers whose quantisers can be switched off.")
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    images = torch.from_numpy(select(calibration.images, _IMAGES, config.seed)).to(device).float() / 255
    quantizers = {
        n: m for n, m in network.network.named_modules() if isinstance(m, (ActivationQuantizer, WeightQuantizer))
    }
    found = []
    try:
        for quantizer in quantizers.values():
            quantizer.enabled = False
        exact = network(images)
        for layer, names in network.layers.items():
            for name in names:
                quantizers[name].enabled = True
            noise = float((network(images) - exact).square().sum())
            for name in names:
                quantizers[name].enabled = False
            found.append((layer, float(10 * np.log10(float(exact.square().sum()) / max(noise, 1e-30)))))
    finally:
        for quantizer in quantizers.values():
            quantizer.enabled = True
    return sorted(found, key=lambda row: row[1])
