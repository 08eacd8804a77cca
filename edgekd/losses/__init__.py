"""Losses as plain functions on tensors; a method composes them."""

from .contrastive import noise_contrastive
from .features import (
    attention_distance,
    feature_variance,
    gaussian_margin,
    hierarchical_context,
    margin_relu,
    partial_l2,
    selectivity_distance,
    similarity_distance,
)
from .logits import decoupled_kl, pearson, soft_target_kl

__all__ = [
    "attention_distance",
    "decoupled_kl",
    "feature_variance",
    "gaussian_margin",
    "hierarchical_context",
    "margin_relu",
    "noise_contrastive",
    "partial_l2",
    "pearson",
    "selectivity_distance",
    "similarity_distance",
    "soft_target_kl",
]
