"""ACC, ASR, RA and untriggered rate of any predictor, on probes that are made once and seen alike by every stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekd import triggers as trigger_box
from edgekd.audit import doubts
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.files import sha256_bytes
from edgekd.types import AuditReport, ProbeSet, Rate, Trigger, TriggeredImages, TriggerScore
from edgekd_device import metrics

Predict = Callable[[np.ndarray], np.ndarray]  # uint8 [N, C, H, W] -> logits float [N, K]


def probes(images: ImageSet, triggers: Sequence[Trigger], num_classes: int) -> ProbeSet:
    """Clean images and, per trigger, the triggered copies of every image that is not of the attacker's class already.

    Under a source rule the other classes are kept too, with their own label for the attacker's: every ASR drops them,
    and ``scan`` still tells how far the trigger works beyond its source. Raises UsageError for a trigger without a
    target, out of range, or with nothing to count.
    """
    names = [trigger.name for trigger in triggers]
    if len(set(names)) < len(names):
        raise UsageError(f"Two triggers share a name among {', '.join(names)}. Give each its own name.")
    made = tuple(_triggered(images, trigger, num_classes) for trigger in triggers)
    digest = "".join([images.sha256, *(one.trigger + one.sha256 for one in made)])
    return ProbeSet(images.images, images.labels, made, sha256_bytes(digest.encode()))


def _triggered(images: ImageSet, trigger: Trigger, num_classes: int) -> TriggeredImages:
    wanted = trigger_box.attacker_labels(trigger, images.labels, num_classes)
    counted = trigger_box.counted_mask(trigger, images.labels)
    if not (counted & (wanted != images.labels)).any():
        raise UsageError(
            f"No image can count for the trigger {trigger.name}: none is of a source class, or all are of the "
            "target class."
        )
    index = np.flatnonzero(wanted != images.labels).astype(np.int64)
    attacker = np.where(counted, wanted, images.labels)[index]
    stamped = trigger_box.apply(trigger, images.images[index])
    digest = sha256_bytes(stamped.tobytes() + index.tobytes() + attacker.tobytes())
    return TriggeredImages(trigger.name, trigger.origin, stamped, index, attacker, digest)


def scan(predict: Predict, probes: ProbeSet, *, floors: Mapping[str, Rate] | None = None) -> AuditReport:
    """Measure one predictor on the probes; ``floors`` holds the ASR of an unattacked control by trigger.

    Raises UsageError when the outputs cannot be read as logits of these classes. What looks odd about the predictor or
    the probes is in the report's warnings.
    """
    logits = predict(probes.images)
    doubts.refuse_unreadable(logits, probes.labels)
    warnings = [*doubts.of_probes(probes.labels), *doubts.of_predictor(predict, probes.images, logits)]
    predictions = logits.argmax(1).astype(np.int64)
    scores, triggered = [], {}
    for one in probes.triggered:
        found = predict(one.images)
        doubts.refuse_unreadable(found, probes.labels[one.index])
        triggered[one.trigger] = found.argmax(1).astype(np.int64)
        floor = (floors or {}).get(one.trigger)
        scores.append(_score(one, probes.labels, predictions, triggered[one.trigger], floor))
        warnings += _beyond_source(one, probes.labels, triggered[one.trigger])
    return AuditReport(
        acc=metrics.accuracy(predictions, probes.labels),
        triggers=tuple(scores),
        probe_sha256=probes.sha256,
        predictions=predictions,
        triggered_predictions=triggered,
        warnings=tuple(warnings),
    )


def _score(
    one: TriggeredImages, labels: np.ndarray, clean: np.ndarray, triggered: np.ndarray, floor: Rate | None
) -> TriggerScore:
    own = labels[one.index]
    return TriggerScore(
        trigger=one.trigger,
        origin=one.origin,
        asr=metrics.attack_success(triggered, own, one.attacker_labels),
        ra=metrics.robust_accuracy(triggered, own, one.attacker_labels),
        untriggered=metrics.attack_success(clean[one.index], own, one.attacker_labels),
        floor=floor,
    )


def _beyond_source(one: TriggeredImages, labels: np.ndarray, triggered: np.ndarray) -> list[str]:
    """How often a source-specific trigger works on classes it was not meant for."""
    outside = one.attacker_labels == labels[one.index]
    if not outside.any():
        return []
    target = int(one.attacker_labels[~outside][0])
    rate = metrics.accuracy(triggered[outside], np.full(int(outside.sum()), target))
    return [
        f"The trigger {one.trigger} is source-specific; on the other classes {rate.value:.1%} of the "
        f"triggered images ({rate.hits}/{rate.total}) are called class {target} too. These do not count for "
        "its ASR."
    ]


def floors(report: AuditReport) -> dict[str, Rate]:
    """asr_floor by trigger: the ASR in the report of a control that no attacker touched."""
    return {score.trigger: score.asr for score in report.triggers}


def right_by_class(report: AuditReport, labels: np.ndarray, num_classes: int) -> list[int]:
    """How many of the clean probe images of each class got their own label; labels: theirs, int64 [N]."""
    assert report.predictions is not None
    right = labels[report.predictions == labels]
    return [int(count) for count in np.bincount(right, minlength=num_classes)]


def flips(before: AuditReport, after: AuditReport) -> Rate:
    """Clean probe images to which two stages give different labels; raises UsageError for different probes."""
    if before.predictions is None or after.predictions is None or before.probe_sha256 != after.probe_sha256:
        raise UsageError("Label flips can only be counted between two audits of the same probe images.")
    return Rate(int((before.predictions != after.predictions).sum()), len(before.predictions))
