"""Pictures for the report: what each trigger looks like, and what every stage says of a few triggered images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from .. import triggers as trigger_box
from ..types import AuditReport, ProbeSet, Trigger

EXAMPLES_PER_TRIGGER = 4
LARGEST_SIDE = 128


def png(image: np.ndarray) -> str:
    """A uint8 [C, H, W] image as base64 PNG, small images enlarged without smoothing."""
    pixels = np.moveaxis(image, 0, -1)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    longest = max(picture.size)
    if longest < LARGEST_SIDE // 2:
        factor = LARGEST_SIDE // longest
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    elif longest > LARGEST_SIDE:
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def gallery(
    probes: ProbeSet, triggers: tuple[Trigger, ...], reports: Mapping[str, AuditReport], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Clean, triggered, difference x10 per trigger, and examples with the predictions of every stage."""
    shown, examples = [], []
    for trigger, probe in zip(triggers, probes.triggered, strict=True):
        clean = probes.images[probe.index[0]]
        stamped, difference = trigger_box.picture(trigger, clean)
        shown.append(
            {
                "trigger": trigger.name,
                "clean_png": png(clean),
                "triggered_png": png(stamped),
                "difference_png": png(difference),
            }
        )
        labels = probes.labels[probe.index]
        counted = np.flatnonzero(labels != probe.attacker_labels)[:EXAMPLES_PER_TRIGGER]
        for position in counted:
            examples.append(
                {
                    "png": png(probe.images[position]),
                    "trigger": trigger.name,
                    "label": class_names[int(labels[position])],
                    "attacker_label": class_names[int(probe.attacker_labels[position])],
                    "predictions": {
                        stage: class_names[int(report.triggered_predictions[trigger.name][position])]
                        for stage, report in reports.items()
                        if trigger.name in report.triggered_predictions
                    },
                }
            )
    return {"triggers": shown, "examples": examples}
