"""Which network a file's tensors belong to, and what is said when there is none."""

from __future__ import annotations

import re

import pytest
import torch

from edgekd import models
from edgekd.errors import UsageError
from edgekd.types import InputSpec, ModelSpec

RGB = InputSpec(3, 32, 32, (0.0,) * 3, (1.0,) * 3)


def tensors_of(arch: str, inputs: InputSpec = RGB, classes: int = 10) -> dict[str, torch.Tensor]:
    return models.weights(models.build(ModelSpec(arch, classes, inputs)))


@pytest.mark.parametrize(
    "arch",
    ["resnet14", "resnet26", "resnet8-w5", "resnet50-w16", "distiller-resnet14", "wrn-22-3", "resnet34", "wrn-10-1"],
)
def test_numbers_are_read_from_shapes(arch: str) -> None:
    spec = models.infer_spec(tensors_of(arch, classes=17))
    assert (spec.arch, spec.num_classes, spec.input.shape) == (arch, 17, (3, 32, 32))


def test_head_tells_the_image_size() -> None:
    square = InputSpec(3, 64, 64, RGB.mean, RGB.std)
    assert models.infer_spec(tensors_of("smallvgg", square)).input.shape == (3, 64, 64)
    assert models.infer_spec(tensors_of("cnn3", InputSpec(1, 28, 28, (0.0,), (1.0,)))).input.shape == (1, 28, 28)


def test_images_of_another_size_are_refused_with_the_right_one() -> None:
    with pytest.raises(UsageError, match=r"images are 3x64x64.*smallvgg takes 3x32x32.*--image-size"):
        models.infer_spec(tensors_of("smallvgg"), input_shape=(3, 64, 64))
    with pytest.raises(UsageError, match=r"images are 1x32x32.*resnet8 takes 3x32x32"):
        models.infer_spec(tensors_of("resnet8"), input_shape=(1, 32, 32))


def test_pooled_heads_take_any_size() -> None:
    assert models.infer_spec(tensors_of("resnet8"), input_shape=(3, 48, 40)).input.shape == (3, 48, 40)


def test_one_set_of_tensors_two_networks() -> None:
    """MobileNetV2 has the same tensors for both image sizes: the images decide, or the user."""
    tensors = tensors_of("mobilenetv2")
    with pytest.raises(UsageError, match=r"fits mobilenetv2 and mobilenetv2-224 equally well.*--arch"):
        models.infer_spec(tensors)
    assert models.infer_spec(tensors, input_shape=(3, 32, 32)).arch == "mobilenetv2"
    assert models.infer_spec(tensors, input_shape=(3, 160, 160)).arch == "mobilenetv2-224"
    assert models.infer_spec(tensors, arch="mobilenetv2-224").input.shape == (3, 224, 224)


def test_a_file_with_both_convpool_networks() -> None:
    """As published: one state dict carries the CIFAR and the MNIST network under their authors' names."""
    from edgekd.models.cnn import PLANS, own_names

    both = {}
    for arch, inputs in (("convpool-cifar", RGB), ("convpool-mnist", InputSpec(1, 28, 28, (0.0,), (1.0,)))):
        names = dict(zip(own_names(PLANS[arch]), PLANS[arch].layers, strict=True))
        for key, value in tensors_of(arch, inputs).items():
            layer, _, kind = key.partition(".")
            both[f"{names[layer]}.{kind}"] = value
    with pytest.raises(UsageError, match="convpool-cifar and convpool-mnist"):
        models.infer_spec(both)
    assert models.infer_spec(both, input_shape=(3, 32, 32)).arch == "convpool-cifar"
    assert models.infer_spec(both, input_shape=(1, 28, 28)).arch == "convpool-mnist"
    spec = models.infer_spec(both, arch="convpool-mnist")
    assert spec.input.shape == (1, 28, 28)
    assert all("cifar" in key for key in models.build(spec, both).dropped)


def test_resnet_under_the_names_of_the_cifar_repositories() -> None:
    tensors = tensors_of("resnet18")
    theirs = {re.sub("^fc", "linear", key.replace("downsample", "shortcut")): value for key, value in tensors.items()}
    spec = models.infer_spec(theirs)
    assert spec.arch == "resnet18"
    model = models.build(spec, theirs)
    assert model.dropped == ()
    assert model.sha256 == models.weights_sha256(tensors)


def test_wide_resnet_under_both_styles() -> None:
    tensors = tensors_of("wrn-10-2")
    theirs = {re.sub("^fc", "linear", re.sub("^block", "layer", key)): value for key, value in tensors.items()}
    spec = models.infer_spec(theirs)
    assert spec.arch == "wrn-10-2-layers"
    assert models.build(spec, theirs).sha256 == models.build(models.infer_spec(tensors), tensors).sha256


def test_normalisation_is_taken_as_given() -> None:
    tensors = tensors_of("resnet8-w4")
    assert models.infer_spec(tensors, normalize="half").input.mean == (0.5, 0.5, 0.5)
    given = models.infer_spec(tensors, normalize=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))).input
    assert (given.mean, given.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with pytest.raises(UsageError, match="no normalisation 'hlaf'"):
        models.infer_spec(tensors, normalize="hlaf")


def test_strangers_are_told_what_is_near_and_the_way_out() -> None:
    tensors = tensors_of("resnet8")
    del tensors["layer2.0.bn1.weight"]
    with pytest.raises(UsageError, match=r"Nearest: resnet8, but layer2\.0\.bn1\.weight is missing.*--arch"):
        models.infer_spec(tensors)
    odd = {f"{key}s": value for key, value in tensors.items()}
    with pytest.raises(UsageError, match=r"no network that edgekd knows.*package\.module:callable"):
        models.infer_spec(odd)
    partly = {key: value for key, value in tensors_of("stripnet").items() if not key.startswith("layers.25")}
    with pytest.raises(UsageError, match="Nearest by names of tensors: stripnet"):
        models.infer_spec(partly)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"no architecture 'resent20'\. Did you mean 'resnet20'\?.*list models"):
        models.infer_spec(tensors_of("resnet8"), arch="resent20")
    with pytest.raises(UsageError, match=r"depth 6n \+ 2.*resnet20"):
        models.build(ModelSpec("resnet21", 10, RGB))
    with pytest.raises(UsageError, match=r"depth 6n \+ 4.*wrn-16-1"):
        models.build(ModelSpec("wrn-17-1", 10, RGB))


@pytest.mark.parametrize("arch", ["smallvgg", "cnn3", "badnet-cnn", "distiller-resnet8"])
def test_images_too_small_for_the_pools(arch: str) -> None:
    with pytest.raises(UsageError, match=r"images.*4x4"):
        models.build(ModelSpec(arch, 10, InputSpec(1, 4, 4, (0.0,), (1.0,))))


def test_named_network_whose_tensors_it_is_not() -> None:
    spec = models.infer_spec(tensors_of("resnet8"), arch="smallvgg")
    with pytest.raises(UsageError, match=r"not smallvgg of 10 classes.*features\.0\.weight is missing.*and \d+ more"):
        models.build(spec, tensors_of("resnet8"))


def test_no_linear_layer_at_all() -> None:
    with pytest.raises(UsageError, match="--num-classes"):
        models.infer_spec({"a": torch.zeros(3)}, arch="resnet8")
