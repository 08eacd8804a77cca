"""Teachers that others trained: recognised, built, and as accurate as their authors say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import checkpoints, models
from edgekd.types import InputSpec, ModelSpec

Pack = tuple[np.ndarray, np.ndarray]  # images uint8 [N, C, H, W], labels

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
def packs(shared: Path) -> Callable[[str], Pack]:
    """Test images of a data set by name, read once; the CIFAR packs hold prediction residuals."""
    found: dict[str, Pack] = {}

    def read(name: str) -> Pack:
        if name not in found and name == "mnist":
            pack = np.load(shared / "data" / "mnist.npz")
            found[name] = pack["x_test"][:, None], pack["y_test"].astype(np.int64)
        elif name not in found:
            pack = np.load(shared / "data" / f"{name}_test.npz")
            green, red, blue = np.cumsum(np.cumsum(pack["d"], 2, dtype=np.uint8), 3, dtype=np.uint8)
            found[name] = np.stack([red + green, green, blue + green], 1), pack["y"].astype(np.int64)
        return found[name]

    return read


def load(shared: Path, entry: dict[str, Any], images: np.ndarray) -> tuple[ModelSpec, models.Network, tuple[str, ...]]:
    tensors = checkpoints.load(shared / "checkpoints" / entry["file"]).tensors
    spec = models.infer_spec(tensors, input_shape=images.shape[1:], normalize=(entry["mean"], entry["std"]))
    model = models.build(spec, tensors)
    assert isinstance(model.module, models.Network)
    return spec, model.module, model.dropped


@torch.inference_mode()
def right(network: models.Network, images: np.ndarray, labels: np.ndarray) -> int:
    hits = 0
    for start in range(0, len(images), 250):
        pixels = torch.from_numpy(images[start : start + 250]).float() / 255
        hits += int((network(pixels).argmax(1).numpy() == labels[start : start + 250]).sum())
    return hits


@pytest.mark.parametrize("file", EXPECTED)
def test_recognised_and_about_as_accurate(file: str, shared: Path, index: Any, packs: Any) -> None:
    images, labels = packs(index[file]["dataset"])
    spec, network, dropped = load(shared, index[file], images)
    assert spec.arch == EXPECTED[file]
    assert spec.num_classes == (100 if file.startswith("cifar100") else 10)
    assert len(dropped) == DROPPED.get(spec.arch, 0)
    stored = index[file].get("parameters")
    if "convpool" not in spec.arch:  # there the figure counts the twin network too
        assert models.cost(spec).parameters == stored
    count = 500  # balanced: every run of 10 or 100 images has each class once
    accuracy = 100 * right(network, images[:count], labels[:count]) / count
    share = index[file]["measured_acc"] / 100
    assert abs(accuracy - 100 * share) < 100 * 3 * (share * (1 - share) / count) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("file", EXPECTED)
def test_accuracy_of_the_readme(file: str, shared: Path, index: Any, packs: Any) -> None:
    images, labels = packs(index[file]["dataset"])
    _, network, _ = load(shared, index[file], images)
    accuracy = 100 * right(network, images, labels) / len(images)
    print(f"{file}: {accuracy:.2f} (README {index[file]['measured_acc']:.2f})")
    assert accuracy == pytest.approx(index[file]["measured_acc"], abs=0.1)


def test_every_file_of_the_folder_is_tested(index: Any) -> None:
    assert set(EXPECTED) == set(index)


@pytest.mark.parametrize("file", [file for file, arch in EXPECTED.items() if "convpool" not in arch])
def test_recognised_without_images(file: str, shared: Path, index: Any) -> None:
    tensors = checkpoints.load(shared / "checkpoints" / file).tensors
    spec = models.infer_spec(tensors)
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
def test_normalisation_found(file: str, preset: str, shared: Path, index: Any, packs: Any) -> None:
    """On test images, which no teacher was trained on."""
    images, labels = packs(index[file]["dataset"])
    tensors = checkpoints.load(shared / "checkpoints" / file).tensors
    spec = models.infer_spec(tensors, input_shape=images.shape[1:])
    inputs, accuracies = models.detect_normalization(spec, tensors, images[:500], labels[:500])
    assert (inputs.mean, inputs.std) == models.normalization(preset, images.shape[1])
    assert accuracies[preset] == max(accuracies.values())
    assert ("imagenet" in accuracies) == (images.shape[1] == 3)
