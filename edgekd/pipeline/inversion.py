"""Trigger inversion on a model file, and what is left of it for later runs: a trigger file, a list that names it, a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from .. import audit
from ..audit.inversion import Inverted
from ..data import ImageSet
from ..errors import UsageError
from ..files import write_bytes, write_npz, write_text
from ..models.onnx_teacher import OnnxNet
from ..runners.torch import TorchRunner
from ..training import Progress
from ..training.device import resolve_device, resolve_precision
from ..types import Model
from .adversarial import placed, straight_through

ARRAYS, LIST, PICTURE = "trigger.npz", "trigger.yaml", "patches.png"
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

    Raises UsageError for an ONNX graph without gradients here, and where ``folder`` cannot be one.
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
        how: dict[str, Any] = {"steps": steps, "seed": seed, "device": place, "progress": progress}
        found = audit.invert(predict, TorchRunner(model, str(place)), images, model.spec.num_classes, **how)
    if found.trigger is not None:
        arrays = {name: np.moveaxis(value, 0, -1) for name, value in found.trigger.params.items()}
        write_npz(folder / ARRAYS, **arrays)
        write_bytes(folder / PICTURE, _sheet(found))
        target = found.trigger.target_label
        entry = f"- file: {ARRAYS}\n  name: {found.trigger.name}\n  origin: inverted\n  target_label: {target}\n"
        write_text(folder / LIST, entry)  # last: what it names is whole
    return found


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
