"""Losses as plain functions on tensors; a method composes them."""

from .adversarial import cross_entropy_each, dlr, dlr_targeted, margin, margin_targeted
from .contrastive import noise_contrastive
from .correlation import entropy_share, pearson, soft_rank, standardised
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
from .gradients import indirect_slope_kl, input_gradient, slope_distance
from .logits import decoupled_kl, soft_target_kl
from .pairs import comparison_mse, comparisons, every_pair_mse
from .scaffold import budget_excess, capped_cross_entropy, plausible, scaffolded_cross_entropy
from .synthesis import (
    TailRule,
    class_balance,
    disagreement,
    kl_each,
    log_distance,
    lower_tail,
    matched_pairs,
    statistics_distance,
    suspicious,
    vaccine_term,
)

__all__ = [
    "TailRule",
    "attention_distance",
    "budget_excess",
    "capped_cross_entropy",
    "class_balance",
    "comparison_mse",
    "comparisons",
    "cross_entropy_each",
    "decoupled_kl",
    "disagreement",
    "dlr",
    "dlr_targeted",
    "entropy_share",
    "every_pair_mse",
    "feature_variance",
    "gaussian_margin",
    "hierarchical_context",
    "indirect_slope_kl",
    "input_gradient",
    "kl_each",
    "log_distance",
    "lower_tail",
    "margin",
    "margin_relu",
    "margin_targeted",
    "matched_pairs",
    "noise_contrastive",
    "partial_l2",
    "pearson",
    "plausible",
    "scaffolded_cross_entropy",
    "selectivity_distance",
    "similarity_distance",
    "slope_distance",
    "soft_rank",
    "soft_target_kl",
    "standardised",
    "statistics_distance",
    "suspicious",
    "vaccine_term",
]
