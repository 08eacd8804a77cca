"""Losses as plain functions on tensors; a method composes them."""

from .features import attention_distance, feature_variance, gaussian_margin, margin_relu, partial_l2
from .logits import soft_target_kl

__all__ = ["attention_distance", "feature_variance", "gaussian_margin", "margin_relu", "partial_l2", "soft_target_kl"]
