"""One picture through the model that ships: what a user does first with a bundle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import bundle, pictures
from .errors import UsageError
from .files import PathLike
from .runtime import base
from .session import as_float, standing


class Guess(NamedTuple):
    """A class and its softmax probability."""

    label: int
    name: str
    probability: float


def predict(
    path: PathLike,
    picture: PathLike,
    *,
    top: int = 5,
    runtime: str | None = None,
    threads: int | None = None,
    progress: base.Progress = base.silent,
) -> tuple[Guess, ...]:
    """The ``top`` likeliest classes of a PNG or JPEG ``picture``, scaled to the input of the bundle in ``path``.

    Raises UsageError or UnsafeInput for a bad bundle or picture, EnvironmentFault where the runtime is absent.
    """
    if top < 1:
        raise UsageError("--top must be 1 or more.")
    contents = bundle.read(path)
    manifest = contents.manifest
    channels, height, width = manifest.input_shape
    decoded = pictures.resize(pictures.decode_opaque(picture), height, width, picture)
    decoded = decoded.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(decoded, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
    runner = base.make(runtime or manifest.runtime, base.Settings(progress=progress))
    model = standing(contents, runner)
    runner.open(contents.model(model), manifest.threads if threads is None else threads)
    try:
        logits = runner.infer(as_float(pixels[None]))[0].astype(np.float64)
    finally:
        runner.close()
    if logits.shape != (manifest.num_classes,) or not np.isfinite(logits).all():
        raise UsageError(f"{model} gives no finite value per class. Export the bundle again.")
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return tuple(
        Guess(int(k), manifest.class_names[k], float(shares[k])) for k in np.argsort(-shares, kind="stable")[:top]
    )
