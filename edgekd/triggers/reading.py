"""Known triggers from files: ``.npz`` with a and b, a PNG patch, a blended picture, a YAML list of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekd.errors import UsageError
from edgekd.triggers import listing, rules
from edgekd.triggers.drawings import Shape
from edgekd.triggers.single import Position, plain_name, read
from edgekd.types import Trigger


def load(
    path: str | Path,
    *,
    shape: Shape,
    target_label: int | None = None,
    rule: str = "all-to-one",
    source_labels: Sequence[int] = (),
    opacity: float | None = None,
    position: Position | None = None,
    num_classes: int | None = None,
) -> tuple[Trigger, ...]:
    """Read the trigger or triggers at ``path`` for images of ``shape`` (C, H, W).

    ``.npz``: float arrays a and b [H, W, C] for clip(a * x + b), x in [0, 1]. PNG: a patch; ``position`` is its upper
    left pixel (row, column) or a corner, its transparency is the mask. A picture with ``opacity`` and no position is
    blended over the whole image, resized to it. ``.yaml``: a list whose entries name a ``file`` or a ``family`` with
    its options, and may set name, rule, target_label and source_labels, and origin: inverted if nobody told it. Raises
    UsageError or UnsafeInput.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no trigger file {path}.")
    if path.suffix.lower() in (".yaml", ".yml"):
        defaults = {"target_label": target_label, "rule": rule, "source_labels": source_labels}
        return listing.read(path, shape, defaults, num_classes)
    rules.check(rule, target_label, source_labels, num_classes)
    family, params = read(path, shape, opacity, position)
    name = plain_name(path.name.split(".")[0] or path.name)
    return (Trigger(name, family, "known", rule, target_label, tuple(source_labels), params),)
