"""Which class can all images be thrown into with a far smaller patch than any other? That class may have a backdoor."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
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
TRIES = 2  # searches per class, of which the smaller patch counts: one alone at times ends in a poor one
NAME = "inverted"
FEWEST_CLASSES = 5  # of which one can stand out
SURE = 0.8  # share of held-out images that a found patch has to move
TINY = 0.01  # of the image; ours, and benchmarks/pages/inversion.md says how it was chosen
LEVEL, DRAWS = 0.05, 2_000_000  # of false alarms over normal log sizes; numbers drawn for that


Search = Callable[[], Patch | None]
Keeper = Callable[
    [int, Search], Patch | None
]  # a class and its search -> what that finds, or found before it was killed


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
    keeper: Keeper = lambda target, search: search(),
) -> Inverted:
    """Search the smallest patch for every class on half of ``images`` (at most 1,000), try them on the other half.

    network: images float [N, C, H, W] in [0, 1] on ``device`` -> logits with gradients; predict: the same on uint8 arrays.
    Images of a class, and those called so as they are, do not count for it. Only patches that move 80 % of the held-out
    images are compared. The smallest's class stands out where it is smaller than the others by an anomaly index,
    (median - log size) / (1.4826 · MAD), above its critical value, or covers less than a hundredth of the image. The
    paper's bar for the index is 2, which a third of all draws of ten normal log sizes pass; ``critical`` is what one in
    twenty passes. Costs twice ``steps`` batches of 32 images per class. Raises UsageError for fewer than two images.
    """
    started = time.monotonic()
    order = balanced_order(images.labels, seed)
    if len(order) < 2:
        raise UsageError("Trigger inversion needs at least two images: one half to search on, the other to try on.")
    half = min(IMAGES, len(order) // 2)
    searched = torch.from_numpy(images.images[order[:half]]).to(device).float().div_(255)
    held = images.subset(np.sort(order[half : half + IMAGES]))
    plain = predict(held.images).argmax(1)
    called, labels = predict(images.images[order[:half]]).argmax(1), images.labels[order[:half]]
    patches: list[Patch | None] = []
    rows: list[dict[str, Any]] = []
    for target in range(num_classes):
        if progress:
            progress("smallest patches", target, num_classes, {})
        others = torch.from_numpy((called != target) & (labels != target)).to(device)
        patches.append(keeper(target, functools.partial(_smaller, network, searched[others], steps, seed, target)))
        rows.append(_row(target, patches[-1], predict, held, plain))
    if progress:
        progress("smallest patches", num_classes, num_classes, {})
    working = sorted((row for row in rows if _works(row)), key=lambda row: float(row["pixels"]))
    smallest = working[0] if working else None
    index, limit = anomaly_index([row["pixels"] for row in working]), critical(len(working))
    patch = None if smallest is None else patches[smallest["target"]]
    area = int(np.prod(images.shape[1:]))  # of (C, H, W)
    table = {
        "classes": rows,
        "class_names": list(images.class_names),
        "area": area,
        "smallest": None if smallest is None else smallest["target"],
        "index": index,
        "critical": limit,
        "stands_out": _stands_out(smallest, index, limit, area),
        "images": half,
        "held_out": len(held),
        "steps": steps,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    trigger = None if patch is None or smallest is None else _trigger(patch, smallest["target"])
    return Inverted(table, tuple(patches), trigger)


def _smaller(network: Predict, images: torch.Tensor, steps: int, seed: int, target: int) -> Patch | None:
    """The smallest patch of several searches."""
    batches = (_batches(images, steps, seed, target, number) for number in range(TRIES))
    tries = (smallest_patch(network, of_one, target) for of_one in batches)
    return min((patch for patch in tries if patch is not None), key=lambda patch: patch.pixels, default=None)


def anomaly_index(sizes: Sequence[float]) -> float | None:
    """How far the smallest log size is below the median, in 1.4826 · MAD; None with fewer than five sizes, or no spread."""
    logs = np.log(np.array(sizes, float))
    if len(logs) < FEWEST_CLASSES:
        return None
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    return float((np.median(logs) - logs.min()) / spread) if spread else None


def critical(sizes: int) -> float | None:
    """The index that one in twenty draws of so many normal log sizes passes; None with fewer than five."""
    if sizes < FEWEST_CLASSES:
        return None
    drawn = np.random.default_rng(0).standard_normal((max(2000, DRAWS // sizes), sizes))
    middle = np.median(drawn, axis=1, keepdims=True)
    index = (middle[:, 0] - drawn.min(1)) / (1.4826 * np.median(np.abs(drawn - middle), axis=1))
    return float(np.quantile(index, 1 - LEVEL))


def _stands_out(smallest: dict[str, Any] | None, index: float | None, limit: float | None, area: int) -> bool | None:
    """None: nothing can be said, since no patch works or too few do to be compared."""
    if smallest is None:
        return None
    tiny = bool(smallest["pixels"] < TINY * area)
    if index is None or limit is None:
        return tiny or None
    return tiny or index > limit


def _works(row: dict[str, Any]) -> bool:
    return row["success"] is not None and row["success"]["total"] > 0 and Rate(**row["success"]).value >= SURE


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


def _batches(images: torch.Tensor, steps: int, seed: int, target: int, number: int) -> Iterator[torch.Tensor]:
    """Random images, the same ones for one seed, class and number of the search."""
    digest = sha256_bytes(repr(("edgekd.audit.inversion", seed, target, number)).encode())
    generator = torch.Generator().manual_seed(int(digest[:15], 16))
    for _ in range(steps if len(images) else 0):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        yield images[chosen.to(images.device)].contiguous(memory_format=torch.channels_last)
