"""Adversarial perturbations of images, and gradients through what they are."""

from .implicit import fixed_point_series, implicit_term, largest_curvature
from .pgd import pgd

__all__ = ["fixed_point_series", "implicit_term", "largest_curvature", "pgd"]
