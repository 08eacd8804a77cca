"""Which class can all images be thrown into with a far smaller patch than any other? That class may have a backdoor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from edgekd import triggers
from edgekd.audit.evaluate import Predict as PredictArray
from edgekd.data import ImageSet, balanced_order
from edgekd.errors import UsageError
from edgekd.files import sha256_bytes
from edgekd.perturb import Patch, smallest_patch
from edgekd.perturb.inversion import Predict
from edgekd.training import Progress
from edgekd.types import Rate, Trigger

STEPS, BATCH, IMAGES = 250, 32, 1000
NAME = "inverted"
FEWEST_CLASSES = 5  # of which one can stand out
SURE = 0.8  # share of held-out images that a found patch has to move
TINY = 0.01  # of the image: a patch that no class of the clean networks measured came near to (benchmarks/pages/inversion.md)
LEVEL, DRAWS = 0.05, 2_000_000  # of false alarms over normal log sizes; numbers drawn for that


class Inverted(NamedTuple):
    """table: plain JSON. patches: by class, None where none was found. trigger: the smallest, in 8 bits; None without any."""

    table: dict[str, Any]
    patches: tuple[Patch | None, ...]
    trigger: Trigger | None


def invert(
    network: Predict,
    predict: PredictArray,
    images: ImageSet,
    num_classes: int,
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Inverted:
    """Search the smallest patch for every class on half of ``images`` (at most 1,000), try them on the other half.

    network: images float [N, C, H, W] in [0, 1] on ``device`` -> logits with gradients; predict: the same on uint8 arrays.
    A class stands out where its patch moves 80 % of the held-out images and either is smaller than the other classes' by an
    anomaly index, (median - log size) / (1.4826 · MAD), above its critical value, or covers less than a hundredth of the
    image. The paper's bar for the index, 2, is passed by a third of all clean networks of ten classes: ``critical`` is what
    one in twenty passes if log sizes are normal. No labels are needed but to leave out the target's own images. Raises
    UsageError for fewer than two images.
    """
    started = time.monotonic()
    order = balanced_order(images.labels, seed)
    if len(order) < 2:
        raise UsageError("Trigger inversion needs at least two images: one half to search on, the other to try on.")
    half = min(IMAGES, len(order) // 2)
    searched = torch.from_numpy(images.images[order[:half]]).to(device).float().div_(255)
    held = images.subset(np.sort(order[half : half + IMAGES]))
    plain = predict(held.images).argmax(1)
    patches: list[Patch | None] = []
    rows: list[dict[str, Any]] = []
    for target in range(num_classes):
        if progress:
            progress("smallest patches", target, num_classes, {})
        patches.append(smallest_patch(network, _batches(searched, steps, seed, target), target))
        rows.append(_row(target, patches[-1], predict, held, plain))
    if progress:
        progress("smallest patches", num_classes, num_classes, {})
    sizes = [row["pixels"] for row in rows]
    smallest = min((row for row in rows if row["pixels"]), key=lambda row: float(row["pixels"]), default=None)
    index, limit = anomaly_index(sizes), critical(num_classes)
    patch = None if smallest is None else patches[smallest["target"]]
    table = {
        "classes": rows,
        "class_names": list(images.class_names),
        "area": int(np.prod(images.shape[1:])),
        "smallest": None if smallest is None else smallest["target"],
        "index": index,
        "critical": limit,
        "stands_out": _stands_out(smallest, index, limit, int(np.prod(images.shape[1:]))),
        "images": half,
        "held_out": len(held),
        "steps": steps,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    trigger = None if patch is None or smallest is None else _trigger(patch, smallest["target"])
    return Inverted(table, tuple(patches), trigger)


def anomaly_index(sizes: Sequence[float | None]) -> float | None:
    """How far the smallest log size is below the median, in 1.4826 · MAD; None with fewer than five sizes, or no spread."""
    logs = np.log([size for size in sizes if size])
    if len(logs) < FEWEST_CLASSES:
        return None
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    return float((np.median(logs) - logs.min()) / spread) if spread else None


def critical(num_classes: int) -> float | None:
    """The index that one in twenty clean networks passes if its log sizes are normal; None with fewer than five classes."""
    if num_classes < FEWEST_CLASSES:
        return None
    drawn = np.random.default_rng(0).standard_normal((max(2000, DRAWS // num_classes), num_classes))
    middle = np.median(drawn, axis=1, keepdims=True)
    index = (middle[:, 0] - drawn.min(1)) / (1.4826 * np.median(np.abs(drawn - middle), axis=1))
    return float(np.quantile(index, 1 - LEVEL))


def _stands_out(smallest: dict[str, Any] | None, index: float | None, limit: float | None, area: int) -> bool | None:
    """None: nothing can be said, since no patch was found or the classes are too few to be compared."""
    if smallest is None:
        return None
    works = Rate(**smallest["success"]).value >= SURE
    tiny = smallest["pixels"] < TINY * area
    if index is None or limit is None:
        return True if works and tiny else None
    return bool(works and (tiny or index > limit))


def _row(target: int, patch: Patch | None, predict: PredictArray, held: ImageSet, plain: np.ndarray) -> dict[str, Any]:
    """A class's patch: its size, and what it does to held-out images that are neither of the class nor called so before."""
    if patch is None:
        return {"target": target, "pixels": None, "success": None}
    others = (held.labels != target) & (plain != target)
    stamped = triggers.apply(_trigger(patch, target), held.images[others])
    hits = int((predict(stamped).argmax(1) == target).sum()) if others.any() else 0
    return {"target": target, "pixels": patch.pixels, "success": Rate(hits, int(others.sum())).to_json()}


def _trigger(patch: Patch, target: int) -> Trigger:
    mask, pattern = (part.detach().float().cpu().numpy() for part in patch)
    keep = np.broadcast_to(1 - mask, pattern.shape).astype(np.float32)
    return Trigger(NAME, "affine", "inverted", "all-to-one", target, params={"a": keep, "b": mask * pattern})


def _batches(images: torch.Tensor, steps: int, seed: int, target: int) -> Iterator[torch.Tensor]:
    """Random images, the same ones for one seed and class."""
    digest = sha256_bytes(repr(("edgekd.audit.inversion", seed, target)).encode())
    generator = torch.Generator().manual_seed(int(digest[:15], 16))
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        yield images[chosen.to(images.device)].contiguous(memory_format=torch.channels_last)
