"""Which label a trigger is meant to cause, and which images count: all-to-one, all-to-all, source-specific."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekd.errors import UsageError, did_you_mean
from edgekd.types import Trigger

RULES = ("all-to-one", "all-to-all", "source")


def check(rule: str, target_label: int | None, source_labels: Sequence[int], num_classes: int | None = None) -> None:
    """Raise UsageError unless rule, target and sources fit each other, and ``num_classes`` where it is known."""
    if rule not in RULES:
        raise UsageError(f"There is no rule {rule!r}; choose {', '.join(RULES)}.{did_you_mean(rule, RULES)}")
    if rule == "all-to-all" and target_label is not None:
        raise UsageError("The rule all-to-all has no target label (it is label + 1). Leave --target-label out.")
    if rule != "all-to-all" and target_label is None:
        raise UsageError(f"The rule {rule} needs the attacker's target label. Give --target-label.")
    if rule == "source" and not source_labels:
        raise UsageError("The rule source needs the classes that are attacked. Give --source-label.")
    if rule != "source" and source_labels:
        raise UsageError(f"Source labels were given, but the rule is {rule}. Add --trigger-rule source.")
    if target_label in source_labels:
        raise UsageError(f"The target label {target_label} is among the source labels {list(source_labels)}.")
    for what, label in (("target label", target_label), *(("source label", label) for label in source_labels)):
        if label is None:
            continue
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise UsageError(f"The {what} is {label!r}, expected a class index.")
        if label < 0 or (num_classes is not None and label >= num_classes):
            limit = "" if num_classes is None else f" for {num_classes} classes (0 to {num_classes - 1})"
            raise UsageError(f"The {what} {label} is out of range{limit}.")


def attacker_labels(trigger: Trigger, labels: np.ndarray, num_classes: int, target: int | None = None) -> np.ndarray:
    """The label the attacker wants for each image, int64 [N]; ``target`` stands in where the trigger names none.

    Raises UsageError for a target that is missing or out of range.
    """
    wanted = trigger.target_label if target is None else target
    check(trigger.rule, wanted, trigger.source_labels, num_classes)
    labels = np.asarray(labels, dtype=np.int64)
    return (labels + 1) % num_classes if wanted is None else np.full_like(labels, wanted)


def counted_mask(trigger: Trigger, labels: np.ndarray) -> np.ndarray:
    """Which images the attack is meant for, bool [N]: those of the source classes, or all.

    Images already of the attacker's class are dropped by the metric itself.
    """
    labels = np.asarray(labels)
    return np.isin(labels, trigger.source_labels) if trigger.rule == "source" else np.ones(labels.shape, bool)
