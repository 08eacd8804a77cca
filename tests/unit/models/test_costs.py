"""Parameters and multiply-adds, by hand; the student that is picked."""

from __future__ import annotations

import pytest
import torch

from edgekd import models
from edgekd.errors import UsageError
from edgekd.models.costs import measure
from edgekd.types import InputSpec, ModelSpec

CIFAR = InputSpec(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
MNIST = InputSpec(1, 28, 28, (0.5,), (0.5,))


def test_by_hand() -> None:
    """resnet8-w1 on grey 4x4 images, 2 classes: widths 1, 2, 4 on maps of 16, 4 and 1 pixels."""
    macs = 16 * 9 + 2 * 16 * 9  # stem and first stage, 1 -> 1
    macs += 4 * 9 * 2 + 4 * 9 * 4  # 1 -> 2, 2 -> 2
    macs += 9 * 8 + 9 * 16  # 2 -> 4, 4 -> 4
    macs += 4 * 2  # head
    parameters = 3 * 9 + (18 + 36) + (72 + 144)  # convolutions
    parameters += 2 * (3 * 1 + 2 * 2 + 2 * 4)  # norms
    parameters += 8 + 2
    spec = ModelSpec("resnet8-w1", 2, InputSpec(1, 4, 4, (0.0,), (1.0,)))
    assert models.cost(spec) == models.Cost(parameters, macs) == models.Cost(337, 872)


def test_groups_functions_and_products_count() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = torch.nn.Conv2d(4, 4, 3, groups=4, bias=False)
            self.frozen = torch.nn.Parameter(torch.zeros(5, 16), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.depthwise(x).flatten(1)
            return torch.matmul(torch.nn.functional.linear(y, self.frozen), torch.zeros(5, 3))

    assert measure(Odd(), torch.zeros(1, 4, 4, 4)) == models.Cost(36, 4 * 4 * 9 + 5 * 16 + 5 * 3)


@pytest.mark.parametrize(
    ("arch", "inputs", "classes", "parameters"),
    [
        ("resnet20", CIFAR, 10, 269_722),
        ("resnet56", CIFAR, 10, 853_018),
        ("wrn-16-1", CIFAR, 10, 175_066),
        ("smallvgg", CIFAR, 10, 308_394),
        ("stripnet", CIFAR, 10, 308_394),
        ("cnn3", CIFAR, 10, 620_362),
        ("badnet-cnn", MNIST, 10, 281_034),
        # published figures of the ImageNet networks
        ("resnet18-224", InputSpec(3, 224, 224, (0.5,) * 3, (0.5,) * 3), 1000, 11_689_512),
        ("resnet50-224", InputSpec(3, 224, 224, (0.5,) * 3, (0.5,) * 3), 1000, 25_557_032),
        ("mobilenetv2-224", InputSpec(3, 224, 224, (0.5,) * 3, (0.5,) * 3), 1000, 3_504_872),
    ],
)
def test_published_parameters(arch: str, inputs: InputSpec, classes: int, parameters: int) -> None:
    assert models.cost(ModelSpec(arch, classes, inputs)).parameters == parameters


@pytest.mark.parametrize(
    ("teacher", "inputs"),
    [
        *(
            (name, CIFAR)
            for name in ("cnn3", "convpool-cifar", "smallvgg", "stripnet", "wrn-16-1", "resnet56", "resnet18")
        ),
        *((name, MNIST) for name in ("badnet-cnn", "convpool-mnist")),
        ("resnet8", InputSpec(1, 32, 32, (0.5,), (0.5,))),
        ("resnet50-224", InputSpec(3, 224, 224, (0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_default_student_costs_less_and_is_the_largest_that_does(teacher: str, inputs: InputSpec) -> None:
    limit = models.cost(ModelSpec(teacher, 10, inputs))
    name = models.default_student(limit, (), inputs, 10)
    own = models.cost(ModelSpec(name, 10, inputs))
    assert own.parameters < limit.parameters
    assert own.macs <= limit.macs
    assert own.macs > 0.3 * limit.macs, "a student far below the limit wastes what is allowed"
    assert name.endswith("-224") == (inputs.height == 224)


def test_candidates_come_first() -> None:
    limit = models.cost(ModelSpec("resnet56", 10, CIFAR))
    assert models.default_student(limit, ("resnet8", "resnet20"), CIFAR, 10) == "resnet20"
    assert models.default_student(limit, ("resnet110",), CIFAR, 10) != "resnet110"
    assert models.default_student(None, ("resnet8", "resnet20"), CIFAR, 10) == "resnet20"


def test_nothing_is_smaller() -> None:
    with pytest.raises(UsageError, match=r"No network of the zoo is smaller.*--student"):
        models.default_student(models.Cost(100, 100), ("resnet8",), CIFAR, 10)


def test_zoo_lists_every_name_once() -> None:
    rows = models.zoo()
    assert [row["model"] for row in rows] == list(models.ARCHITECTURES)
    assert all(row["parameters"] > 0 and row["macs"] > 0 and row["about"] for row in rows)
    assert next(row for row in rows if row["model"] == "resnet50-224")["images"] == "224x224"
