"""Images and labels in pixel space: reading, splitting, and batches that live on the device."""

from typing import TYPE_CHECKING, Any

from edgekd.data.formats import FORMATS, load, parts
from edgekd.data.images import ImageSet
from edgekd.data.split import balanced_order, split

if TYPE_CHECKING:
    from edgekd.data.batches import Batch, Batches

__all__ = ["FORMATS", "Batch", "Batches", "ImageSet", "balanced_order", "load", "parts", "split"]


def __getattr__(name: str) -> Any:
    if name in ("Batch", "Batches"):  # the only part that needs torch
        from edgekd.data import batches

        return getattr(batches, name)
    raise AttributeError(f"module 'edgekd.data' has no attribute {name!r}")
