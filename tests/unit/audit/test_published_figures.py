"""ACC, ASR and untriggered rate of the third-party backdoored teachers, as measured when they were collected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd import audit, checkpoints, models, triggers
from edgekd.data import ImageSet
from edgekd.runners.torch import TorchRunner
from edgekd.types import InputSpec

TEACHERS = (
    "cifar10_wrn16-1_abl_grid_t0.tar",
    "cifar10_smallvgg_badnets_t8.pth",
    "cifar10_smallvgg_trojan_wm_t2.pth",
    "cifar10_smallvgg_l2_inv_t0.pth",
    "cifar10_cnn_aisb_checker_t0.pth",
    "cifar10_stripnet_kisd_blend_8to3.pth",
    "cifar10_convpool_wxr_all2all.pt",
    "mnist_lenet_wxr_all2all.pt",
    "mnist_badnet_verazuo_t1.pth",
)


def rule(entry: dict[str, Any]) -> dict[str, Any]:
    if entry["mode"] == "all2all":
        return {"rule": "all-to-all"}
    if entry["mode"] == "source":
        return {"rule": "source", "source_labels": (entry["source"],), "target_label": entry["target"]}
    return {"target_label": entry["target"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEACHERS)
def test_figures_equal_the_collection_to_a_tenth_of_a_point(
    shared: Path, complete_test_set: Callable[[str], ImageSet], name: str
) -> None:
    entries = {entry["file"]: entry for entry in json.loads((shared / "checkpoints" / "index.json").read_text())}
    entry = entries[name]
    images = complete_test_set(entry["dataset"])
    tensors = checkpoints.load(shared / "checkpoints" / name).tensors
    spec = models.infer_spec(tensors, input_shape=images.shape)
    spec = models.with_input(spec, InputSpec(*images.shape, tuple(entry["mean"]), tuple(entry["std"])))
    path = shared / "checkpoints" / entry["trigger"]
    known = triggers.load(path, shape=images.shape, num_classes=10, **rule(entry))
    report = audit.scan(TorchRunner(models.build(spec, tensors)), audit.probes(images, known, 10))
    (score,) = report.triggers
    assert score.untriggered is not None
    assert 100 * report.acc.value == pytest.approx(entry["measured_acc"], abs=0.1)
    assert 100 * score.asr.value == pytest.approx(entry["measured_asr"], abs=0.1)
    assert 100 * score.untriggered.value == pytest.approx(entry["asr_without_trigger"], abs=0.1)
