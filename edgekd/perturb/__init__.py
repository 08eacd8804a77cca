"""Adversarial perturbations of images."""

from .pgd import pgd

__all__ = ["pgd"]
