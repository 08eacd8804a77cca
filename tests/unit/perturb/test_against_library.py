"""Our attacks beside those of AutoAttack's authors, at equal budgets, on a network that others trained.

Needs the extra attacks-eval; the figures are counts of images that keep their label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd import checkpoints, models
from edgekd.audit import tiers
from edgekd.audit.trial import Trial
from edgekd.data import ImageSet

library = pytest.importorskip("pyautoattack", reason="needs the extra attacks-eval")

EPS, IMAGES, STEPS, TARGETS, QUERIES = 0.5 / 255, 60, 20, 3, 300
OURS = {
    "apgd-ce": tiers.apgd_ce(STEPS),
    "apgd-t": tiers.apgd_t(STEPS, TARGETS),
    "fab-t": tiers.fab_t(STEPS, TARGETS),
    "square": tiers.square_of(QUERIES),
}


@pytest.fixture(scope="module")
def network(shared: Path) -> torch.nn.Module:
    tensors = checkpoints.load(shared / "checkpoints" / "cifar10_distiller_resnet8.pth").tensors
    spec = models.infer_spec(
        tensors, input_shape=(3, 32, 32), normalize=((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    )
    return models.build(spec, tensors).module.requires_grad_(False)


@pytest.fixture(scope="module")
def trial(cifar_test: ImageSet) -> Trial:
    return Trial(cifar_test, "smoke", EPS, count=IMAGES)


@pytest.fixture(scope="module")
def theirs(network: torch.nn.Module, trial: Trial) -> dict[str, int]:
    how: dict[str, Any] = {"norm": "Linf", "eps": EPS, "version": "custom", "attacks": list(OURS), "seed": 0}
    adversary = library.AutoAttack(network, device="cpu", **how)
    for attack in (adversary.apgd, adversary.apgd_targeted, adversary.fab):
        attack.n_iter = STEPS
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = TARGETS
    adversary.square.n_queries = QUERIES
    found: dict[str, Any] = adversary.run_standard_evaluation_individual(trial.pixels, trial.labels, batch_size=IMAGES)
    every = torch.arange(len(trial))
    return {name: int(trial.withstood(network, images, every).sum()) for name, (images, _) in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_they_leave_as_many_images(name: str, network: torch.nn.Module, trial: Trial, theirs: dict[str, int]) -> None:
    every = torch.arange(len(trial))
    right = every[trial.withstood(network, trial.pixels, every)]
    ours = int(trial.left(network, OURS[name], right).sum())
    print(f"{name}: ours leaves {ours} of {len(trial)}, the library {theirs[name]}, of {len(right)} right")
    assert abs(ours - theirs[name]) <= (4 if name == "square" else 2)
