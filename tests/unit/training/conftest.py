"""Batches and a schedule of a second for the loop's tests."""

import pytest

from edgekd.data import Batches
from edgekd.training import TrainConfig


@pytest.fixture
def batches(tiny_images):
    return Batches(tiny_images, 32, seed=3, augment="crop-flip")


@pytest.fixture
def config():
    return TrainConfig(epochs=4, batch_size=32, lr=0.05, precision="fp32", seed=3)
