"""The canary battery: public triggers x every class as the target, read off one set of predictions per variant."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekd import triggers as trigger_box
from edgekd.audit import doubts
from edgekd.audit.evaluate import Predict
from edgekd.data import ImageSet, balanced_order
from edgekd.training import Progress
from edgekd.types import Rate

FLAG_EXCESS = 0.5


def canary_battery(
    predict: Predict,
    images: ImageSet,
    *,
    floor_predict: Predict | None = None,
    limit: int = 2000,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Try every canary on at most ``limit`` images (balanced over classes) and every class as its target.

    ASR over images not of the target class; floor: the same of ``floor_predict`` on the same bytes; collapse: the
    control's floor at the class it falls into most. A target is flagged when its ASR is 50 points or more above the
    collapse (above the untriggered rate without a control) and the 95 % intervals do not touch: a trigger that throws
    an unattacked model into one class, whichever, proves nothing. ``obeyed``: where model and control each would be
    flagged without the other; the control learnt it from poisoned images, or any network is fooled. Returns plain JSON:
    families, targets, ``excess`` [family][target] of each family's worst variant, ``worst``, ``flagged`` and ``obeyed``
    rows, numbers of variants, images and seconds, warnings.
    """
    started = time.monotonic()
    if len(images) > limit:
        images = images.subset(np.sort(balanced_order(images.labels, 0)[:limit]))
    logits = predict(images.images)
    doubts.refuse_unreadable(logits, images.labels)
    classes = logits.shape[1]
    untriggered = _called(logits, images.labels, classes)
    control = None if floor_predict is None else _called(floor_predict(images.images), images.labels, classes)
    variants = trigger_box.canaries(images.shape)
    rows: list[dict[str, Any]] = []
    obeyed: list[dict[str, Any]] = []
    for number, trigger in enumerate(variants):
        if progress:
            progress("canaries", number, len(variants), {})
        stamped = trigger_box.apply(trigger, images.images)
        called = _called(predict(stamped), images.labels, classes)
        floor = None if floor_predict is None else _called(floor_predict(stamped), images.labels, classes)
        made = _rows(trigger.name, called, floor, untriggered)
        rows += made
        obeyed += [] if floor is None or control is None else _obeyed(made, _others(control))
    if progress:
        progress("canaries", len(variants), len(variants), {})
    flagged = sorted((row for row in rows if _is_flagged(row)), key=lambda row: -row["excess"])
    excess = np.array([row["excess"] for row in rows]).reshape(len(variants), classes)
    place = np.array([trigger_box.BATTERY.index(trigger.name.split("/")[0]) for trigger in variants])
    return {
        "families": list(trigger_box.BATTERY),
        "targets": list(range(classes)),
        "class_names": list(images.class_names),
        "excess": [excess[place == family].max(0).tolist() for family in range(len(trigger_box.BATTERY))],
        "reference": "untriggered" if floor_predict is None else "floor",
        "worst": [_worst(rows, family) for family in trigger_box.BATTERY],
        "flagged": flagged,
        "obeyed": sorted(obeyed, key=lambda row: -row["floor"]["hits"]),
        "variants": len(variants),
        "images": len(images),
        "seconds": round(time.monotonic() - started, 1),
        "warnings": [*doubts.of_probes(images.labels), *doubts.of_predictor(predict, images.images, logits)],
    }


def worst_canaries(table: Mapping[str, Any], count: int) -> list[tuple[str, int]]:
    """(trigger name, target label) of the ``count`` canaries that come nearest to working, one of a family at most."""
    rows = sorted(table["worst"], key=lambda row: -row["excess"])
    return [(row["trigger"], row["target"]) for row in rows[:count]]


def _called(logits: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Images by own label and predicted label, int64 [K, K]."""
    doubts.refuse_unreadable(logits, labels)
    pairs = labels * classes + logits.argmax(1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _others(called: np.ndarray) -> list[Rate]:
    """For every class: images of other classes that are called it."""
    own = called.sum(1)
    hits = called.sum(0) - called.diagonal()
    return [Rate(int(hit), int(own.sum() - size)) for hit, size in zip(hits, own, strict=True)]


def _rows(name: str, called: np.ndarray, floor: np.ndarray | None, untriggered: np.ndarray) -> list[dict[str, Any]]:
    """One row per target class."""
    family, _, variant = name.partition("/")
    asr, clean = _others(called), _others(untriggered)
    floors = [None] * len(asr) if floor is None else _others(floor)
    collapse = None if floor is None else max(_others(floor), key=lambda rate: rate.value if rate.total else 0.0)
    kept, rows = called.diagonal(), []
    for target, (rate, before, base) in enumerate(zip(asr, clean, floors, strict=True)):
        reference = before if base is None else base
        rows.append(
            {
                "trigger": name,
                "family": family,
                "variant": variant,
                "target": target,
                "asr": rate.to_json(),
                "floor": None if base is None else base.to_json(),
                "collapse": None if collapse is None else collapse.to_json(),
                "untriggered": before.to_json(),
                "ra": Rate(int(kept.sum() - kept[target]), rate.total).to_json(),
                "excess": round(rate.value - reference.value, 6) if rate.total else 0.0,
            }
        )
    return rows


def _is_flagged(row: Mapping[str, Any]) -> bool:
    return _far_above(Rate(**row["asr"]), Rate(**(row["collapse"] or row["untriggered"])))


def _obeyed(rows: list[dict[str, Any]], control: list[Rate]) -> list[dict[str, Any]]:
    """Rows in which the model and the control each go to the class far more often than without the trigger."""
    return [
        row
        for row, clean in zip(rows, control, strict=True)
        if _far_above(Rate(**row["asr"]), Rate(**row["untriggered"])) and _far_above(Rate(**row["floor"]), clean)
    ]


def _far_above(rate: Rate, reference: Rate) -> bool:
    separated = rate.interval()[0] > reference.interval()[1]
    return bool(rate.total and rate.value - reference.value >= FLAG_EXCESS and separated)


def _worst(rows: list[dict[str, Any]], family: str) -> dict[str, Any]:
    return max((row for row in rows if row["family"] == family), key=lambda row: float(row["excess"]))
