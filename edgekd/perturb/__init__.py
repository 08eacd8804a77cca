"""Adversarial perturbations of images, and gradients through what they are."""

from .apgd import apgd
from .fab import fab
from .implicit import fixed_point_series, implicit_term, largest_curvature
from .inversion import Patch, smallest_patch
from .pgd import pgd
from .slopes import Objective, Predict, slope
from .square import square
from .targeted import each_target

__all__ = [
    "Objective",
    "Patch",
    "Predict",
    "apgd",
    "each_target",
    "fab",
    "fixed_point_series",
    "implicit_term",
    "largest_curvature",
    "pgd",
    "slope",
    "smallest_patch",
    "square",
]
