"""Trigger inversion on a model file, and what is left of it for later runs: a trigger file, a list that names it, a picture."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from .. import __version__, audit, checkpoints
from ..audit.inversion import Inverted, Search
from ..data import ImageSet
from ..errors import UnsafeInput, UsageError
from ..files import canonical_json, sha256_bytes, write_bytes, write_npz, write_text
from ..models.onnx_teacher import OnnxNet
from ..perturb import Patch
from ..runners.torch import TorchRunner
from ..training import Progress
from ..training.device import resolve_device, resolve_precision
from ..types import Model
from .adversarial import placed, straight_through

ARRAYS, LIST, PICTURE = "trigger.npz", "trigger.yaml", "patches.png"
SEARCHED = "searched.safetensors"  # there until the search is done
SIDE, MARGIN, COLUMNS = 128, 8, 10


def invert(
    model: Model,
    images: ImageSet,
    folder: Path,
    *,
    steps: int,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
) -> Inverted:
    """Search a patch for every class of ``model``; the smallest goes into ``folder`` as a trigger that --trigger takes.

    A search that was killed goes on with the class it was at, if model, images and settings are the same. Raises UsageError for an ONNX graph without gradients here, and where ``folder`` cannot be one.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file. Name a folder with --invert; it is made if it is not there.")
    onnx = isinstance(getattr(model.module, "net", None), OnnxNet)
    network = straight_through(model) if onnx else model.module
    place = resolve_device("cpu" if onnx else device)
    half = resolve_precision("auto", place) == "bf16"

    def predict(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(place.type, torch.bfloat16, enabled=half):
            logits: torch.Tensor = network(images)
        return logits

    (folder / LIST).unlink(missing_ok=True)  # it would name what another search found
    with placed(network, str(place)):
        key = canonical_json([__version__, model.sha256, images.sha256, steps, seed, str(place), half])
        kept = _Kept(folder / SEARCHED, sha256_bytes(key.encode()), place)
        how: dict[str, Any] = {"steps": steps, "seed": seed, "device": place, "progress": progress}
        if model.sha256:  # a network that came from no file is not known again
            how["keeper"] = kept
        found = audit.invert(predict, TorchRunner(model, str(place)), images, model.spec.num_classes, **how)
    if found.trigger is not None:
        arrays = {name: np.moveaxis(value, 0, -1) for name, value in found.trigger.params.items()}
        write_npz(folder / ARRAYS, **arrays)
        write_bytes(folder / PICTURE, _sheet(found))
        target = found.trigger.target_label
        entry = f"- file: {ARRAYS}\n  name: {found.trigger.name}\n  origin: inverted\n  target_label: {target}\n"
        write_text(folder / LIST, entry)  # last: what it names is whole
    kept.remove()
    return found


class _Kept:
    """The patches of the classes that are done, in one file that is written anew after each."""

    def __init__(self, path: Path, key: str, place: torch.device) -> None:
        """``key``: of a search; what another one has left counts for nothing."""
        self.path, self.about, self.place = path, {"search": key}, place
        self.tensors: dict[str, torch.Tensor] = {}
        if path.exists():
            with contextlib.suppress(UsageError, UnsafeInput):  # damaged: nothing but time is lost
                tensors, metadata = checkpoints.load_student(path)
                self.tensors = tensors if metadata == self.about else {}

    def __call__(self, target: int, search: Search) -> Patch | None:
        if f"{target}.done" not in self.tensors:
            patch = search()
            parts = {} if patch is None else patch._asdict()
            self.tensors |= {f"{target}.{name}": part.float().cpu().contiguous() for name, part in parts.items()}
            self.tensors[f"{target}.done"] = torch.ones(1)
            checkpoints.save(self.path, self.tensors, self.about)
        if f"{target}.mask" not in self.tensors:
            return None
        return Patch(*(self.tensors[f"{target}.{name}"].to(self.place) for name in Patch._fields))

    def remove(self) -> None:
        for file in (self.path, checkpoints.sidecar_of(self.path)):
            file.unlink(missing_ok=True)


def _sheet(found: Inverted) -> bytes:
    """Every class's patch on grey, in the classes' order, with its label and size; a PNG."""
    count = len(found.patches)
    columns = min(COLUMNS, count)
    step = SIDE + MARGIN
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * step + MARGIN, rows * (step + 2 * MARGIN) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (patch, row) in enumerate(zip(found.patches, found.table["classes"], strict=True)):
        left, top = MARGIN + number % columns * step, MARGIN + number // columns * (step + 2 * MARGIN)
        pixels = torch.full((3, 2, 2), 0.5)
        if patch is not None:
            pixels = torch.lerp(torch.full_like(patch.pattern, 0.5), patch.pattern, patch.mask).float().cpu()
        drawn = pixels.expand(3, -1, -1).mul(255).round().byte().permute(1, 2, 0).numpy()
        tile = Image.fromarray(drawn).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        sheet.paste(tile, (left, top))
        size = "none found" if row["pixels"] is None else f"{row['pixels']:.1f} px"
        draw.text((left, top + SIDE + 2), f"{row['target']}: {size}", fill="black")
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
