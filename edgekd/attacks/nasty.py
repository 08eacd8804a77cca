"""A nasty teacher (Ma et al. 2021): as accurate as a normal one, but its outputs beside the label ruin students that copy it.

No backdoor: it obeys no trigger, and its owner wants to keep others from distilling it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from ..data import Batches
from ..errors import UsageError
from ..losses import soft_target_kl
from ..models import build, weights_sha256
from ..training import Context, Method, Progress, Settings, TrainConfig, checked, fit
from ..training.device import place, resolve_device
from ..training.fit import Validate
from ..types import Model, TrainLog

if TYPE_CHECKING:
    from ..data import Batch, ImageSet

CLIP = 5.0  # longest gradient of the weights: without it large networks were reported to end in NaN


class NastySettings(Settings):
    weight: float = Field(
        0.04,
        ge=0,
        description="weight of the distance from a normal network; published for 10 classes, 0.005 for 100; 0: none",
    )
    temperature: float = Field(
        4.0, gt=0, description="temperature of that distance; published for 10 classes, 20 for 100"
    )
    cap: float = Field(
        5.0, gt=0, description="nats beyond which that distance no longer counts, since KL has no upper bound"
    )
    fresh: bool = Field(
        True,
        description="start from fresh weights, as the published code does; false: from the normal network's weights, "
        "much faster",
    )


class Nasty(Method):
    """CE(T(x), y) - weight · τ² · min(KL(T ‖ A), cap), A a normal network of the same architecture, frozen.

    The cap is on the batch's mean, and it and the clipped gradient are ours, against the collapse of accuracy where the
    weight is large.
    """

    Config: ClassVar[type[Settings]] = NastySettings
    student: Any  # the network that becomes the teacher

    def __init__(self, config: NastySettings, normal: Any) -> None:
        self.config, self.normal = config, normal

    def prepare(self, context: Context) -> None:
        self.student = context.student
        place(self.normal, context.device)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            said = self.normal(batch.images)
        torch.clear_autocast_cache()
        logits = self.student(batch.images)
        far = soft_target_kl(said, logits, self.config.temperature)
        most = self.config.cap * self.config.temperature**2
        return {
            "ce": F.cross_entropy(logits.float(), batch.labels),
            "nasty": -self.config.weight * far.clamp_max(most),
        }

    def update(self, step: Callable[[], None]) -> None:
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        step()


def run(
    images: ImageSet,
    normal: Model,
    options: Mapping[str, Any],
    train: TrainConfig,
    *,
    folder: Path | None = None,
    validate: Validate | None = None,
    progress: Progress | None = None,
) -> tuple[Model, TrainLog]:
    """A nasty network of ``normal``'s architecture; a run that was killed in ``folder`` continues.

    validate: figures of a module of pixels -> logits on validation images. Raises UsageError for settings or images that
    do not fit, and for a normal network without weights.
    """
    config = checked(NastySettings, "attack 'nasty'", options)
    if not any(True for _ in normal.module.parameters()):
        raise UsageError(f"{normal.spec.arch} has no weights to train. Give --start weights, not an ONNX graph.")
    if images.shape != normal.spec.input.shape or images.num_classes > normal.spec.num_classes:
        raise UsageError(
            f"The images are {images.shape} of {images.num_classes} classes, but the network {normal.spec.arch} "
            f"takes {normal.spec.input.shape} of {normal.spec.num_classes}."
        )
    module: Any = build(normal.spec, seed=train.seed).module if config.fresh else copy.deepcopy(normal.module)
    module.requires_grad_(True)
    frozen = copy.deepcopy(normal.module).eval().requires_grad_(False)
    identity = {
        "attack": "nasty",
        "options": config.model_dump(mode="json"),
        "spec": normal.spec.to_json(),
        "images": images.sha256,
        "normal": normal.sha256 or weights_sha256(normal.module.state_dict()),
    }
    device = resolve_device(train.device)
    batches = Batches(images, train.batch_size, seed=train.seed, augment=train.augment, device=device)
    method = Nasty(config, frozen)
    log = fit(
        module, method, batches, train,
        folder=folder, validate=validate, progress=progress, identity=identity, what="nasty",
    )  # fmt: skip
    module.to("cpu").eval()
    return Model(normal.spec, module, weights_sha256(module.net.state_dict())), log
