"""The evaluator doubts itself: unreadable outputs are refused, odd ones are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd import audit
from edgekd.audit import doubts
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.runners.torch import TorchRunner
from edgekd.types import InputSpec, Model, ModelSpec

RANDOM = np.random.RandomState(6)
SPEC = ModelSpec("test", 4, InputSpec(3, 8, 8, (0.0,) * 3, (1.0,) * 3))
BRIGHTNESS = RANDOM.randint(0, 160, (400, 1, 1, 1))  # photographs differ in brightness too
IMAGES = ImageSet(
    (RANDOM.randint(0, 96, (400, 3, 8, 8)) + BRIGHTNESS).astype(np.uint8),
    np.arange(400, dtype=np.int64) % 4,
    ("a", "b", "c", "d"),
)


def network(*extra: torch.nn.Module) -> TorchRunner:
    torch.manual_seed(0)
    head = torch.nn.Linear(8 * 64, 4)
    head.weight.data *= 30
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), *extra, torch.nn.Flatten(), head)
    return TorchRunner(Model(SPEC, net.eval()))


def warnings(runner: TorchRunner, images: ImageSet = IMAGES) -> str:
    return " ".join(audit.scan(runner, audit.probes(images, [], 4)).warnings)


def test_a_sound_model_and_enough_probes_raise_no_doubt() -> None:
    assert warnings(network()) == ""
    assert warnings(network(torch.nn.BatchNorm2d(8), torch.nn.Dropout())) == ""


@pytest.mark.parametrize("layer", [torch.nn.BatchNorm2d(8), torch.nn.Dropout(0.5)])
def test_train_mode_is_noticed(layer: torch.nn.Module) -> None:
    runner = network(layer)
    runner.model.module.train()
    assert "train mode" in warnings(runner)


def test_probabilities_are_noticed() -> None:
    runner = network()
    with_softmax = TorchRunner(Model(SPEC, torch.nn.Sequential(runner.model.module, torch.nn.Softmax(1)).eval()))
    assert "already sum to one" in warnings(with_softmax)
    assert not doubts.are_probabilities(np.zeros((0, 4)))


def test_one_answer_for_all_is_noticed() -> None:
    runner = network()
    runner.model.module[-1].bias.data[2] += 1e4
    assert "every image class 2" in warnings(runner)


def test_few_probes_of_a_class_are_named() -> None:
    few = IMAGES.subset(np.flatnonzero((IMAGES.labels != 1) | (np.arange(400) < 30)))
    assert "1 of 4 classes have fewer than 100 probe images (class 1 has 8)" in warnings(network(), few)


def test_a_single_image_can_be_scanned() -> None:
    assert "intervals are wide" in warnings(network(), IMAGES.subset([0]))


@pytest.mark.parametrize(
    ("logits", "word"),
    [
        (np.zeros((400,)), "expected"),
        (np.zeros((399, 4)), "400 images"),
        (np.zeros((400, 3)), "--class-map"),
        (np.full((400, 4), np.nan), "NaN"),
        (np.where(np.arange(4) == 1, np.inf, np.zeros((400, 4))), "400 of 400"),
    ],
)
def test_unreadable_outputs_are_refused(logits: np.ndarray, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        audit.scan(lambda images: logits, audit.probes(IMAGES, [], 4))


def test_torch_runner_equals_the_module_and_leaves_it_alone() -> None:
    runner = network(torch.nn.BatchNorm2d(8))
    before = {name: value.clone() for name, value in runner.model.module.state_dict().items()}
    runner.batch_size = 7
    logits = runner(IMAGES.images[:20])
    with torch.no_grad():
        expected = runner.model.module(torch.from_numpy(IMAGES.images[:20]).float() / 255)
    assert logits.dtype == np.float32
    assert np.allclose(logits, expected.numpy(), atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in runner.model.module.state_dict().items())
    assert runner(IMAGES.images[:0]).shape == (0, 4)


def test_torch_runner_refuses_other_images() -> None:
    with pytest.raises(UsageError, match=r"takes images of \[3, 8, 8\]"):
        network()(np.zeros((1, 1, 8, 8), np.uint8))
    with pytest.raises(UsageError, match="float32"):
        network()(np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.gpu
def test_torch_runner_on_a_gpu_agrees_with_the_cpu() -> None:
    runner = network(torch.nn.BatchNorm2d(8))
    on_cpu = runner(IMAGES.images)
    on_gpu = TorchRunner(runner.model, "cuda")(IMAGES.images)
    assert {tensor.device.type for tensor in runner.model.module.state_dict().values()} == {"cpu"}
    assert np.abs(on_cpu - on_gpu).max() < 1e-3 * np.abs(on_cpu).max()
