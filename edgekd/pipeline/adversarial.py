"""Accuracy under attack of one artefact after another: a network by its gradients, an ONNX file by what it answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import audit, checkpoints, models
from ..audit import Robustness
from ..config import AuditSection
from ..data import ImageSet
from ..errors import UsageError
from ..models.onnx_teacher import TINY, OnnxNet
from ..quantize.straight_through import StraightThrough
from ..training import Progress
from ..types import Model, Target
from .stages import Stages

COPY = "straight-through copy"


def attack_network(
    model: Model,
    images: ImageSet,
    settings: AuditSection,
    *,
    name: str,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
    network: Robustness | None = None,
) -> tuple[Robustness, ...]:
    """What is left of the accuracy of ``model`` on some of ``images`` when no pixel changes by more than settings.eps.

    An ONNX file is judged by its own answers, to examples made on a torch copy of its graph with the same scales, whose
    roundings pass gradients straight through, to those of ``network``, the one it was made from, and to Square. Returns
    that copy's figures, if one could be made, and last those of ``model``.
    """
    assert settings.adversarial is not None
    how: dict[str, Any] = {"seed": seed, "count": settings.adversarial_images, "progress": progress}
    if not isinstance(getattr(model.module, "net", None), OnnxNet):
        with placed(model.module, device):
            return (
                audit.robustness(
                    model.module, images, settings.adversarial, settings.eps, name=name, device=device, **how
                ),
            )
    copy, why = None, ""
    try:
        twin = straight_through(model)
    except UsageError as error:
        why = str(error)
    else:
        copy = audit.robustness(twin, images, settings.adversarial, settings.eps, name=f"{COPY} of {name}", **how)
    sources: dict[str, Any] = {"copy": copy, "network": network, "why": why}
    own = audit.robustness_of_file(
        model.module, images, settings.adversarial, settings.eps, name=name, **sources, **how
    )
    return (own,) if copy is None else (copy, own)


def straight_through(model: Model) -> nn.Module:
    """The network of an ONNX file with gradients; UsageError where its graph holds what has none here."""
    net: Any = model.module.net
    copy = models.Network(_Logits(StraightThrough(net.data), net.softmax), model.spec.input).eval()
    try:
        with torch.no_grad():
            copy(torch.full((2, *model.spec.input.shape), 0.5))
    except RuntimeError as error:  # a graph made for one batch size
        raise UsageError(f"Its graph cannot be run on two images: {str(error).splitlines()[0]}") from error
    return copy


class _Logits(nn.Module):
    """A graph's output; log-probabilities where it ends in a softmax, as OnnxNet gives them."""

    def __init__(self, graph: StraightThrough, softmax: bool) -> None:
        super().__init__()
        self.graph, self.softmax = graph, softmax

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.graph(images)
        return out.clamp_min(TINY).log() if self.softmax else out


@contextlib.contextmanager
def placed(module: nn.Module, device: str) -> Iterator[None]:
    """On the device, its weights in channels_last and without gradients of their own; then as it was."""
    asked = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    home = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    module.to(device).requires_grad_(False)
    try:
        yield
    finally:
        module.to(home)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(asked[name])


def onnx_model(path: str | Path, model: Model) -> Model:
    """An ONNX file that was made from ``model``, read as safely as a stranger's.

    Raises UsageError where it does not take that network's images or has fewer classes.
    """
    return models.onnx_teacher(checkpoints.load(path), model.spec.input.shape, model.spec.num_classes)


def under_attack(stages: Stages, student: Model, target: Target) -> tuple[dict[str, Any], ...]:
    """The artefacts of a run under attack, a table each: teacher, student, the INT8 file that ships; () where none is wanted."""
    settings, seed = stages.config.audit, stages.config.seed
    if settings.adversarial is None:
        return ()
    test = stages.parts["test"]
    asked = settings.model_dump(include={"adversarial", "eps", "adversarial_images"})
    asked |= {"test": test.sha256, "seed": seed}
    file = stages.folder.path / "bundle" / target.ships

    def attacked(model: Model, name: str, network: Robustness | None = None) -> tuple[Robustness, ...]:
        how: dict[str, Any] = {"seed": seed, "device": stages.device, "progress": stages.progress}
        return attack_network(model, test, settings, name=name, network=network, **how)

    def teacher(folder: Path) -> dict[str, Any]:
        return _tables(attacked(stages.teacher, "teacher"))

    def shipped(folder: Path) -> dict[str, Any]:
        (own,) = attacked(student, "student fp32")
        return _tables((own, *attacked(onnx_model(file, student), target.ships, own)))

    looked_at = {"teacher": stages.teacher.sha256, **stages.noted, **asked}
    found = stages.folder.stage("adversarial-teacher", looked_at, teacher)["tables"]
    looked_at = {"student": student.sha256, "file": checkpoints.digest(str(file)), **asked}
    return (*found, *stages.folder.stage("adversarial-student", looked_at, shipped)["tables"])


def _tables(attacked: tuple[Robustness, ...]) -> dict[str, Any]:
    return {"tables": [one.table for one in attacked]}
