"""Pictures of a report: PNGs decoded and written anew, so that nothing of the file but its pixels is passed on.

``RunRecord.pictures``, every ``*png`` a PNG as base64, every label a class name::

    {"triggers": [{"trigger", "clean_png", "triggered_png", "difference_png"}],
     "examples": [{"png", "trigger", "label", "attacker_label", "predictions": {stage: class name}}]}

``RunRecord.disagreement``: {"count", "total", "top": [{"index", "label", "predicted", "confidence"[, "file", "png"]}]
[, "into": {label: images}, "class_names"]}; labels are names, or numbers that class_names tells.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..types import RunRecord
from . import text

LARGEST_SIDE = 1024
MOST_EXAMPLES = 48
MOST_DISAGREEMENTS = 50


@dataclass(frozen=True)
class TriggerPicture:
    trigger: str
    pictures: tuple[tuple[str, str], ...]  # (caption, data URI)


@dataclass(frozen=True)
class Prediction:
    stage: str
    label: str
    tone: str  # good: its own label; bad: the attacker's; quiet: some other


@dataclass(frozen=True)
class Example:
    picture: str
    trigger: str
    label: str
    attacker_label: str
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class Doubt:
    """One image of the transfer data whose label the teacher does not share."""

    picture: str
    name: str  # its file, or its number
    label: str
    predicted: str
    confidence: str


def data_uri(value: Any) -> str:
    """A base64 PNG as a data URI of a PNG of our own; empty where it cannot be read or a side is over 1024 pixels."""
    from PIL import Image

    try:
        data = base64.b64decode(value, validate=True)
        if data[:8] != b"\x89PNG\r\n\x1a\n" or max(struct.unpack(">II", data[16:24])) > LARGEST_SIDE:
            return ""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                if max(picture.size) > LARGEST_SIDE:  # a second header chunk may speak otherwise than the first
                    return ""
                kept = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    except (TypeError, ValueError, binascii.Error, struct.error, OSError, SyntaxError, Warning):
        return ""
    fresh = Image.frombytes(kept.mode, kept.size, kept.tobytes())
    stream = io.BytesIO()
    fresh.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _rows(value: Any, key: str, most: int) -> list[Mapping[str, Any]]:
    rows = value.get(key) if isinstance(value, Mapping) else ()
    return [row for row in rows[:most] if isinstance(row, Mapping)] if isinstance(rows, list | tuple) else []


def trigger_pictures(record: RunRecord) -> tuple[TriggerPicture, ...]:
    found = []
    for row in _rows(record.pictures, "triggers", MOST_EXAMPLES):
        captions = (
            ("clean", "clean_png"),
            ("with the trigger", "triggered_png"),
            ("difference × 10", "difference_png"),
        )
        pictures = tuple((caption, data_uri(row.get(key))) for caption, key in captions)
        found.append(TriggerPicture(text.clean(row.get("trigger", "")), tuple(p for p in pictures if p[1])))
    return tuple(found)


def examples(record: RunRecord) -> tuple[Example, ...]:
    found, order = [], [row.stage for row in record.rows]
    for row in _rows(record.pictures, "examples", MOST_EXAMPLES):
        label, attacker = text.clean(row.get("label", "")), text.clean(row.get("attacker_label", ""))
        said = row.get("predictions")
        predictions = []
        stages = said.items() if isinstance(said, Mapping) else ()
        # a stored mapping is in the order of the alphabet; the ledger's tells the story
        for stage, name in sorted(stages, key=lambda item: order.index(item[0]) if item[0] in order else len(order)):
            shade = "bad" if text.clean(name) == attacker else "good" if text.clean(name) == label else "quiet"
            predictions.append(Prediction(text.clean(stage), text.clean(name), shade))
        picture = data_uri(row.get("png"))
        found.append(Example(picture, text.clean(row.get("trigger", "")), label, attacker, tuple(predictions)))
    return tuple(found)


def doubts(record: RunRecord) -> tuple[Doubt, ...]:
    return tuple(
        Doubt(
            data_uri(row.get("png")) if row.get("png") else "",
            text.clean(row.get("file") or f"image {row.get('index', '')}"),
            _class(record, row.get("label", "")),
            _class(record, row.get("predicted", "")),
            _share(row.get("confidence")),
        )
        for row in _rows(record.disagreement, "top", MOST_DISAGREEMENTS)
    )


def _class(record: RunRecord, label: Any) -> str:
    """The class's name, where a label is a number and the record knows its name."""
    for known in (record.disagreement, record.canaries):
        names = known.get("class_names") if isinstance(known, Mapping) else None
        if isinstance(names, list | tuple) and isinstance(label, int) and 0 <= label < len(names):
            return text.clean(names[label])
    return text.clean(label)


def _share(value: Any) -> str:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return f"{100 * value:.1f} %" if usable else text.NOT_MEASURED


def doubts_summary(record: RunRecord) -> str:
    """How many labels of the transfer data the teacher does not share, in a sentence."""
    value = record.disagreement
    if not isinstance(value, Mapping):
        return "Teacher and labels of the transfer data were not compared."
    count, total = value.get("count"), value.get("total")
    share = f" ({100 * count / total:.2f} %)" if isinstance(count, int) and isinstance(total, int) and total else ""
    said = f"The teacher disagrees with the label of {text.figure(count)} of {text.figure(total)} images{share}."
    into = value.get("into")
    most = {k: v for k, v in into.items() if isinstance(v, int)} if isinstance(into, Mapping) else {}
    if most and isinstance(count, int) and count:
        label, hits = max(most.items(), key=lambda item: item[1])
        name = _class(record, int(label) if str(label).isdecimal() else label)
        said += f" It calls {hits:,} of them {name}, more than any other class."
    return said
