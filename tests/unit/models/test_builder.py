"""Tensors into networks: strict where it matters, forgiving where it is safe."""

from __future__ import annotations

import hashlib

import pytest
import torch

from edgekd import models
from edgekd.errors import UsageError
from edgekd.types import InputSpec, ModelSpec

SPEC = ModelSpec("resnet8-w4", 10, InputSpec(3, 32, 32, (0.5,) * 3, (0.25,) * 3))


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return models.weights(models.build(SPEC, seed=1))


def test_unused_tensors_are_dropped_and_listed(tensors: dict[str, torch.Tensor]) -> None:
    model = models.build(SPEC, {"ema.decay": torch.zeros(1), **tensors, "layer9.weight": torch.zeros(2)})
    assert model.dropped == ("ema.decay", "layer9.weight")


def test_missing_and_misshapen_tensors_are_refused_five_by_name(tensors: dict[str, torch.Tensor]) -> None:
    tensors["linear.weight"] = torch.zeros(10, 17)
    for key in [key for key in tensors if key.startswith("layer1")]:
        del tensors[key]
    with pytest.raises(UsageError) as caught:
        models.build(SPEC, tensors)
    message = str(caught.value)
    assert message.count("is missing") == 5
    assert "more" in message
    assert "--arch" in message
    tensors |= {key: value for key, value in models.weights(models.build(SPEC)).items() if key.startswith("layer1")}
    with pytest.raises(UsageError, match=r"linear\.weight is \[10, 17\], expected \[10, 16\]"):
        models.build(SPEC, tensors)


def test_batch_counters_may_be_missing(tensors: dict[str, torch.Tensor]) -> None:
    """Files from before PyTorch 0.4.1 have none."""
    old = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(tensors)
    assert models.build(SPEC, old).sha256 == models.build(SPEC, tensors).sha256


def test_half_precision_becomes_float32(tensors: dict[str, torch.Tensor]) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    model = models.build(SPEC, half)
    assert {value.dtype for value in models.weights(model).values()} == {torch.float32, torch.int64}


def test_weights_are_copied(tensors: dict[str, torch.Tensor]) -> None:
    model = models.build(SPEC, tensors)
    before = model.sha256
    tensors["linear.bias"].fill_(9)
    assert models.weights_sha256(models.weights(model)) == before


def test_hash_by_hand() -> None:
    tensors = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3)}
    expected = hashlib.sha256()
    expected.update(b"a torch.int64 []\n" + (3).to_bytes(8, "little"))
    expected.update(b"b torch.float32 [2]\n" + bytes.fromhex("0000803f00000040"))
    assert models.weights_sha256(tensors) == expected.hexdigest()


def test_normalisation_is_part_of_the_model_not_of_the_weights(tensors: dict[str, torch.Tensor]) -> None:
    model = models.build(SPEC, tensors)
    assert not any("normalize" in key for key in model.module.state_dict())
    pixels = torch.rand(2, 3, 32, 32)
    plain = models.renormalise(model, InputSpec(3, 32, 32, (0.0,) * 3, (1.0,) * 3))
    assert plain.sha256 == model.sha256
    with torch.inference_mode():
        assert torch.equal(model.module(pixels), plain.module((pixels - 0.5) / 0.25))
    assert models.with_input(SPEC, plain.spec.input) == plain.spec


def test_statistics_must_fit_the_channels() -> None:
    with pytest.raises(UsageError, match="as many means"):
        models.build(ModelSpec("resnet8", 10, InputSpec(3, 32, 32, (0.5,), (0.5,))))


def test_fresh_norms_are_the_identity_and_biases_zero() -> None:
    net = models.build(ModelSpec("smallvgg", 10, SPEC.input)).module
    state = net.state_dict()
    assert all(not value.any() for key, value in state.items() if key.endswith((".bias", "running_mean")))
    assert all(bool((value == 1).all()) for key, value in state.items() if key.endswith("running_var"))
