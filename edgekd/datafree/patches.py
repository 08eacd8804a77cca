"""Patches of one picture, of a folder of pictures, or of drawn textures (Asano and Saeed, ICLR 2023); labels are the teacher's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field

from edgekd_device.arrays import read_npz

from .. import files
from ..data import Batch, Batches, ImageSet
from ..data.streams import shuffled
from ..errors import EdgekdError
from ..training import Settings
from ..training.chunks import Chunks
from . import cutting, textures
from .base import Part, Source, View, histogram
from .vaccine import Vaccine, capped, doubt

TEXTURES = 8  # drawn pictures
HELD_OUT = 2**31  # added to a seed, beyond all seeds of runs
CANDIDATES = 2  # patches cut for one that is kept, where classes are balanced
MOST_OF_A_CLASS = 2.0  # times its even share
AT_ONCE, LEAST_POOL = 500, 64
MOST_BYTES = 3 << 30  # of a pool
LEAST_IMAGES = 2  # that a batch norm can take the statistics of
POOL, VERDICT = "pool.npz", "vaccine-{}.npz"
TAUGHT = {"alpha": 1.0, "temperature": 4.0}


class PatchSettings(Settings):
    image: str | None = Field(None, min_length=1, description="a picture, or a folder of them; default: drawn textures")
    images: int = Field(
        20_000,
        ge=LEAST_POOL,
        le=1_000_000,
        description="patches in the pool, and shown in an epoch; of large images as many as fit into 3 GiB are cut and shown "
        "several times, as the pool is in memory some three times",
    )
    cutmix: bool = Field(True, description="paste a box of another patch into each")
    balance: bool = Field(
        True,
        description="of twice as many patches first take those of each class, by the teacher, up to twice its even share; "
        "what these leave open is filled with what there is, so a favourite may have more",
    )
    mirrored: bool = Field(True, description="use each patch and its mirror image, as two images")


class Pool(NamedTuple):
    """images uint8 [N, C, H, W]; logits float32 [N, K], the teacher's; named int64 [K]: candidates it takes for each class."""

    images: np.ndarray
    logits: np.ndarray
    named: np.ndarray


class Verdict(NamedTuple):
    """What a vaccine said of a pool: suspects bool [N], spared, doubt ("" for none), and the vaccine's state."""

    suspects: np.ndarray
    spared: np.ndarray
    doubt: np.ndarray
    trial: np.ndarray
    looks: np.ndarray


class Patches(Source):
    """A pool that is made once and stays: what the teacher says of each image is asked once and kept.

    Suspicious images are left out (``vaccine.suspect_weight`` 0), or are shown at their weight; an epoch has as many steps
    either way.
    """

    Config = PatchSettings
    fixed = True
    presets: ClassVar[dict[str, Any]] = {
        "fast": {
            "train": {"epochs": 10, "schedule": "onecycle", "lr": 0.2, "augment": "none"},
            "kd": TAUGHT,
            "source": {"images": 96_000},
        },
        "full": {
            "train": {"epochs": 100, "schedule": "cosine", "lr": 0.1, "augment": "none"},
            "kd": TAUGHT,
            "source": {"images": 100_000},
        },
    }

    pool: Pool
    suspects: np.ndarray  # bool [N]
    spared: int = 0  # suspicious images that are learned from, as their class has too many of them
    doubt: str | None = None

    def open(self, view: View) -> None:
        self.view = view
        if not hasattr(self, "pool"):  # opened again, it has both already
            self.pool = self._kept() or self._made()
            self.suspects = self._suspects()
        weight = 0.0 if self.vaccine is None else self.vaccine.config.suspect_weight
        shown = np.flatnonzero(~self.suspects) if weight == 0 else np.arange(len(self.suspects))
        images = ImageSet(
            self.pool.images[shown],
            self.pool.logits[shown].argmax(1).astype(np.int64),
            tuple(str(label) for label in range(self.pool.logits.shape[1])),
            "patches",
        )
        device = view.device
        self.batches = Batches(images, self.train.batch_size, seed=self.train.seed, augment="none", device=device)
        self.steps = max(self.config.images // self.train.batch_size, 1)
        self.chunks = Chunks(self.batches, self.steps)
        self.logits = torch.from_numpy(self.pool.logits[shown]).to(device)
        self.weight = weight
        self.suspect = torch.from_numpy(self.suspects[shown]).to(device)

    @property
    def labels(self) -> torch.Tensor:
        return self.batches.labels

    def epoch(self, number: int) -> Iterator[Batch]:
        """The pool's batches; the teacher is told what it said of each image."""
        return self._told(self.chunks.epoch(number))

    def once(self) -> Iterator[Batch]:
        return self._told(self.batches.once())

    def _told(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.view.teacher.tell(batch.images, self.logits[batch.index])
            yield batch

    def shortened(self, steps: int) -> tuple[dict[str, Any], float, int]:
        size = self.train.batch_size
        few = min(self.config.images, max(LEAST_POOL, steps * size))
        return {"images": few}, self.config.images / few, max(self.config.images // size, 1)

    def parts(self, batch: Batch) -> Iterator[Part]:
        suspect = self.suspect[batch.index]
        if not bool(suspect.any()):
            yield Part(1.0, batch)
            return
        count, others = int((~suspect).sum()), int(suspect.sum())
        mean = count + max(self.weight, 0.0) * others
        for mask, weight in (
            (~suspect, count / mean),
            (suspect, self.weight * (others / mean if self.weight > 0 else 1)),
        ):
            if int(mask.sum()) >= LEAST_IMAGES:
                part = Batch(*(values[mask] for values in batch))
                self.view.teacher.tell(part.images, self.logits[part.index])
                yield Part(weight, part, mask is suspect)

    def kept_bytes(self, teacher: torch.nn.Module) -> int:
        return int(self._pooled() * self._bytes())

    def _bytes(self) -> int:
        """Of one patch and what the teacher says of it."""
        return int(math.prod(self.shape) + 4 * self.num_classes)

    def _pooled(self) -> int:
        """Patches in the pool: an epoch's, or fewer where these are large."""
        return min(int(self.config.images), max(LEAST_POOL, MOST_BYTES // self._bytes()))

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return () if self.vaccine is None else (self.vaccine,)

    def collect(self, count: int, seed: int) -> np.ndarray:
        free = np.flatnonzero(~self.suspects)
        found: np.ndarray = self.pool.images[free[shuffled(len(free), seed, "collect")[:count]]]
        return found

    def identity(self) -> dict[str, Any]:
        found = super().identity()
        found["source"]["image"] = None if self.config.image is None else cutting.digest(self.config.image)
        return found

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "images": len(self.pool.images),
            "suspicious": int(self.suspects.sum()),
            "classes": self.pool.named.tolist(),
        }
        if self.vaccine is not None:
            found |= {"vaccine": self.vaccine.report, "spared": self.spared, "doubt": self.doubt}
        return found

    def _suspects(self) -> np.ndarray:
        if self.vaccine is None:
            return np.zeros(len(self.pool.images), bool)
        self.vaccine.to(self.view.device)
        key = files.sha256_bytes(
            files.canonical_json([self._key(), self.vaccine.config.model_dump(mode="json")]).encode()
        )
        name = VERDICT.format(key[:8])
        kept = self._read(name, key, Verdict)
        if kept is not None:
            for buffer in ("trial", "looks"):
                self.vaccine.get_buffer(buffer).copy_(torch.from_numpy(kept[buffer]))
            self.spared, self.doubt = int(kept["spared"]), str(kept["doubt"]) or None
            return kept["suspects"]
        found = self._judged(self.vaccine)
        state = [self.vaccine.get_buffer(buffer).cpu().numpy() for buffer in ("trial", "looks")]
        self._write(name, key, Verdict(found, np.array(self.spared), np.array(self.doubt or ""), *state))
        return found

    def _judged(self, vaccine: Vaccine) -> np.ndarray:
        """What the vaccine, searched if it was not yet, suspects of the pool; sets ``spared`` and ``doubt``."""
        teacher, images = self.view.teacher.teacher, self.pool.images
        if not vaccine.searched:
            vaccine.search(teacher, self._float(self.collected(vaccine.config.pool)))
        with self.bf16():
            exact = not torch.is_autocast_enabled(self.view.device.type)  # of the pool's logits
        parts = zip(_parts(images), _parts(self.pool.logits), strict=True)
        distances = np.concatenate([
            vaccine.distances(teacher, self._float(part), torch.from_numpy(logits) if exact else None).cpu().numpy()
            for part, logits in parts
        ])  # fmt: skip
        suspicious = np.isfinite(distances)
        self.doubt = doubt(suspicious)
        if self.doubt is not None:  # so that what hangs on an accepted vaccine does not count on this one
            vaccine.drop()
            return np.zeros(len(images), bool)
        found = capped(distances, self.pool.logits.argmax(1), vaccine.config.most_of_a_class)
        self.spared = int(suspicious.sum() - found.sum())
        return found

    def collected(self, count: int) -> np.ndarray:
        """Some of the pool, suspicious or not."""
        found: np.ndarray = self.pool.images[shuffled(len(self.pool.images), self.train.seed, "vaccine pool")[:count]]
        return found

    # ---- the pool -----------------------------------------------------------------------------------------------------

    def _made(self) -> Pool:
        """Cut, mix, ask the teacher, balance, mirror."""
        config, (channels, height, width) = self.config, self.spec.input.shape
        wanted = self._pooled() // 2 if config.mirrored else self._pooled()
        pictures = self.pictures()
        count = CANDIDATES * wanted if config.balance else wanted
        images = cutting.cut(pictures, count, max(height, width), self.train.seed)[:, :, :height, :width]
        images = images if channels == 3 else cutting.grey(images)
        images = np.ascontiguousarray(cutting.cutmix(images, self.train.seed) if config.cutmix else images)
        logits = self.ask(images)
        named = np.array(histogram(torch.from_numpy(logits)))
        if config.balance:
            chosen = balanced(logits.argmax(1), wanted, logits.shape[1])
            images, logits = images[chosen], logits[chosen]
        if config.mirrored:
            other = np.ascontiguousarray(images[..., ::-1])
            images, logits = np.concatenate([images, other]), np.concatenate([logits, self.ask(other)])
        pool = Pool(images, logits, named)
        self._write(POOL, self._key(), pool)
        return pool

    def pictures(self) -> list[np.ndarray]:
        """What patches are cut from, uint8 [H, W, 3] each."""
        image = self.config.image
        return textures.pictures(TEXTURES, self.train.seed) if image is None else cutting.read(image)

    def ask(self, images: np.ndarray) -> np.ndarray:
        """The teacher's logits float32 [N, K] of images uint8 [N, C, H, W]."""
        with torch.no_grad(), self.bf16():
            parts = [self.view.teacher.teacher(self._float(part)).float().cpu() for part in _parts(images)]
        found: np.ndarray = torch.cat(parts).numpy()
        return found

    def _float(self, images: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.view.device).float().div_(255)
        return pixels.contiguous(memory_format=torch.channels_last)

    def _key(self) -> str:
        about = {**self.identity(), "seed": self.train.seed, "teacher": self.view.teacher_sha256}
        del about["vaccine"]  # the same pool serves with and without
        return files.sha256_bytes(files.canonical_json(about).encode())

    def _kept(self) -> Pool | None:
        """The pool of an earlier start in the folder, if it is this one."""
        found = self._read(POOL, self._key(), Pool)
        return None if found is None else Pool(**found)

    def _read(self, name: str, key: str, kind: type[Pool | Verdict]) -> dict[str, np.ndarray] | None:
        """What an earlier start left in the folder under this key, if anything."""
        file = None if self.view.folder is None else Path(self.view.folder) / name
        if file is None or not file.exists():
            return None
        try:
            found = read_npz(file)
            return {field: found[field] for field in kind._fields} if str(found["key"]) == key else None
        except (EdgekdError, KeyError, OSError):
            return None

    def _write(self, name: str, key: str, held: Pool | Verdict) -> None:
        if self.view.folder is not None:
            files.write_npz(self.view.folder / name, type(held).__name__.lower(), **held._asdict(), key=np.array(key))


def held_out(image: str | None, shape: tuple[int, int, int], count: int, seed: int) -> np.ndarray:
    """Patches uint8 [count, C, H, W] that no pool of this seed holds, as they were cut; image: as in the settings."""
    channels, height, width = shape
    side = max(height, width)
    pictures = textures.pictures(TEXTURES, seed) if image is None else cutting.read(image)
    images = cutting.cut(pictures, count, side, HELD_OUT + seed, held_out=True)[:, :, :height, :width]
    return np.ascontiguousarray(images if channels == 3 else cutting.grey(images))


def balanced(labels: np.ndarray, count: int, classes: int) -> np.ndarray:
    """Positions [count] of labels [N]: the first of each class up to twice its even share, then the first of the rest."""
    cap = max(1, int(MOST_OF_A_CLASS * count / classes))
    order = np.argsort(ranks(labels) >= cap, kind="stable")
    return np.sort(order[:count])


def ranks(labels: np.ndarray) -> np.ndarray:
    """How many before each of labels [N] are of its class, int64 [N]."""
    found = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        found[where] = np.arange(len(where))
    return found


def _parts(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
