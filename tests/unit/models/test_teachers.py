"""Teachers that others trained: recognised, built, and as accurate as their authors say."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd import checkpoints, models
from edgekd.data import ImageSet
from edgekd.types import InputSpec, ModelSpec

Tensors = dict[str, torch.Tensor]

# file -> what it must be recognised as from its tensors and the images alone
EXPECTED = {
    "cifar10_smallvgg_badnets_t8.pth": "smallvgg",
    "cifar10_smallvgg_trojan_wm_t2.pth": "smallvgg",
    "cifar10_smallvgg_l2_inv_t0.pth": "smallvgg",
    "cifar10_wrn16-1_abl_grid_t0.tar": "wrn-16-1",
    "cifar10_cnn_aisb_checker_t0.pth": "cnn3",
    "cifar10_cnn_aisb_clean.pth": "cnn3",
    "cifar10_stripnet_kisd_blend_8to3.pth": "stripnet",
    "cifar10_stripnet_kisd_clean.pth": "stripnet",
    "cifar10_convpool_wxr_all2all.pt": "convpool-cifar",
    "cifar10_convpool_wxr_clean.pt": "convpool-cifar",
    "mnist_lenet_wxr_all2all.pt": "convpool-mnist",
    "mnist_badnet_verazuo_t1.pth": "badnet-cnn",
    "cifar10_resnet20-12fca82f.th": "resnet20",
    "cifar10_resnet56-4bfd9763.th": "resnet56",
    "cifar10_distiller_resnet8.pth": "distiller-resnet8",
    "cifar10_distiller_resnet8_distilled.pth": "distiller-resnet8",
    "cifar10_distiller_wrn16_1.pth": "wrn-16-1-layers",
    "cifar100_distiller_resnet8.pth": "distiller-resnet8",
    "cifar100_distiller_resnet32.pth": "distiller-resnet32",
}
# what the network does not use: the twin network of the ConvPool files, StripNet's two other copies of every tensor
DROPPED = {"convpool-cifar": 8, "convpool-mnist": 10, "stripnet": 88}


@pytest.fixture(scope="session")
def index(shared: Path) -> dict[str, dict[str, Any]]:
    return {entry["file"]: entry for entry in json.loads((shared / "checkpoints" / "index.json").read_text())}


@pytest.fixture(scope="session")
def read(shared: Path) -> Callable[[str], Tensors]:
    """The tensors of a file by its name, read once."""
    return functools.cache(lambda file: checkpoints.load(shared / "checkpoints" / file).tensors)


def build(
    tensors: Tensors, entry: dict[str, Any], images: ImageSet
) -> tuple[ModelSpec, models.Network, tuple[str, ...]]:
    spec = models.infer_spec(tensors, input_shape=images.shape, normalize=(entry["mean"], entry["std"]))
    model = models.build(spec, tensors)
    assert isinstance(model.module, models.Network)
    return spec, model.module, model.dropped


@torch.inference_mode()
def right(network: models.Network, images: ImageSet) -> int:
    hits = 0
    for start in range(0, len(images), 250):
        pixels = torch.from_numpy(images.images[start : start + 250]).float() / 255
        hits += int((network(pixels).argmax(1).numpy() == images.labels[start : start + 250]).sum())
    return hits


@pytest.mark.parametrize("file", EXPECTED)
def test_recognised_and_about_as_accurate(file: str, read: Any, index: Any, complete_test_set: Any) -> None:
    images = complete_test_set(index[file]["dataset"])
    spec, network, dropped = build(read(file), index[file], images)
    assert spec.arch == EXPECTED[file]
    assert spec.num_classes == (100 if file.startswith("cifar100") else 10)
    assert len(dropped) == DROPPED.get(spec.arch, 0)
    stored = index[file].get("parameters")
    if "convpool" not in spec.arch:  # there the figure counts the twin network too
        assert models.cost(spec).parameters == stored
    count = 500  # balanced: every run of 10 or 100 images has each class once
    accuracy = 100 * right(network, images.subset(range(count))) / count
    share = index[file]["measured_acc"] / 100
    assert abs(accuracy - 100 * share) < 100 * 3 * (share * (1 - share) / count) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("file", EXPECTED)
def test_accuracy_of_the_readme(file: str, read: Any, index: Any, complete_test_set: Any) -> None:
    images = complete_test_set(index[file]["dataset"])
    _, network, _ = build(read(file), index[file], images)
    accuracy = 100 * right(network, images) / len(images)
    print(f"{file}: {accuracy:.2f} (README {index[file]['measured_acc']:.2f})")
    assert accuracy == pytest.approx(index[file]["measured_acc"], abs=0.1)


def test_every_file_of_the_folder_is_tested(index: Any) -> None:
    assert set(EXPECTED) == set(index)


@pytest.mark.parametrize("file", [file for file, arch in EXPECTED.items() if "convpool" not in arch])
def test_recognised_without_images(file: str, read: Any) -> None:
    spec = models.infer_spec(read(file))
    assert spec.arch == EXPECTED[file]
    assert spec.input == InputSpec(*spec.input.shape, (0.0,) * spec.input.channels, (1.0,) * spec.input.channels)
    assert spec.input.shape == ((1, 28, 28) if file.startswith("mnist") else (3, 32, 32))


@pytest.mark.parametrize(
    ("file", "preset"),
    [
        ("cifar10_cnn_aisb_checker_t0.pth", "half"),
        ("cifar10_smallvgg_badnets_t8.pth", "none"),
        ("cifar10_convpool_wxr_clean.pt", "cifar10-scalar"),
        ("mnist_lenet_wxr_all2all.pt", "mnist"),
        ("mnist_badnet_verazuo_t1.pth", "half"),
    ],
)
def test_normalisation_found(file: str, preset: str, read: Any, index: Any, complete_test_set: Any) -> None:
    """On test images, which no teacher was trained on."""
    images, tensors = complete_test_set(index[file]["dataset"]).subset(range(500)), read(file)
    spec = models.infer_spec(tensors, input_shape=images.shape)
    inputs, accuracies = models.detect_normalization(spec, tensors, images.images, images.labels)
    assert (inputs.mean, inputs.std) == models.normalization(preset, images.shape[0])
    assert accuracies[preset] == max(accuracies.values())
    assert ("imagenet" in accuracies) == (images.shape[0] == 3)
