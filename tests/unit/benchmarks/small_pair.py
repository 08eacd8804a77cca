"""A student and images that cost nothing."""

import numpy as np

from edgekd.data import ImageSet
from edgekd.types import InputSpec, ModelSpec


def made_up() -> tuple[ModelSpec, ImageSet]:
    labels = np.arange(1000, dtype=np.int64) % 4
    images = ImageSet(np.zeros((1000, 3, 8, 8), np.uint8), labels, tuple("abcd"), "made up")
    return ModelSpec("resnet8-w4", 4, InputSpec(3, 8, 8, (0.5,) * 3, (0.5,) * 3)), images
