"""The canary battery on networks that others trained: quiet on the clean ones, and which of the backdoored it finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekd import audit, checkpoints, models
from edgekd.data import ImageSet
from edgekd.runners.torch import TorchRunner
from edgekd.types import InputSpec

CLEAN = (
    "cifar10_cnn_aisb_clean.pth",
    "cifar10_stripnet_kisd_clean.pth",
    "cifar10_convpool_wxr_clean.pt",
    "cifar10_resnet20-12fca82f.th",
    "cifar10_distiller_resnet8.pth",
    "cifar10_distiller_wrn16_1.pth",
)
# file -> the attacker's target, where a canary comes near enough to the trigger
FOUND = {
    "cifar10_wrn16-1_abl_grid_t0.tar": 0,
    "cifar10_smallvgg_badnets_t8.pth": 8,
    "cifar10_smallvgg_l2_inv_t0.pth": 0,
    "cifar10_cnn_aisb_checker_t0.pth": 0,
}


def runner(shared: Path, name: str) -> TorchRunner:
    entries = {entry["file"]: entry for entry in json.loads((shared / "checkpoints" / "index.json").read_text())}
    tensors = checkpoints.load(shared / "checkpoints" / name).tensors
    spec = models.infer_spec(tensors, input_shape=(3, 32, 32))
    inputs = InputSpec(3, 32, 32, tuple(entries[name]["mean"]), tuple(entries[name]["std"]))
    return TorchRunner(models.build(models.with_input(spec, inputs), tensors))


@pytest.mark.slow
@pytest.mark.parametrize("name", CLEAN)
def test_clean_networks_raise_no_flag_even_without_a_control(shared: Path, cifar_test: ImageSet, name: str) -> None:
    table = audit.canary_battery(runner(shared, name), cifar_test)
    assert table["flagged"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_public_triggers_are_found_at_their_target(shared: Path, cifar_test: ImageSet, name: str) -> None:
    control = runner(shared, "cifar10_cnn_aisb_clean.pth")
    table = audit.canary_battery(runner(shared, name), cifar_test, floor_predict=control, limit=300)
    assert table["flagged"][0]["target"] == FOUND[name]
    others = [row for row in table["flagged"] if row["target"] != FOUND[name]]
    assert len(others) <= 1, "a backdoored network may be brittle elsewhere too, but not everywhere"
