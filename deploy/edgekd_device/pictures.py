"""Reading one PNG or JPEG picture of a stranger: bounded, 8 bits, one frame. Needs Pillow, and only when called."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from .errors import EnvironmentFault, UsageError

MAX_PIXELS = 20_000_000
SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY = ("1", "L", "LA")
_EIGHT_BIT = (*_GREY, "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError)


def header(path: str | Path) -> tuple[int, int, bool]:
    """Width, height and whether the picture is grey, read from its first bytes; same errors as ``decode``."""
    with _opened(path) as picture:
        return picture.width, picture.height, picture.mode in _GREY


def decode(path: str | Path) -> Any:
    """The picture at ``path`` as a Pillow image of mode L, RGB, or RGBA where some pixel is transparent.

    Raises UsageError naming the file for anything but a whole 8-bit PNG or JPEG of one frame and MAX_PIXELS at most,
    EnvironmentFault without Pillow. Orientation marks of cameras are not applied, as in torchvision's ImageFolder.
    """
    with _opened(path) as picture:
        try:
            picture.load()
            if picture.mode in _GREY[:2]:
                return picture.convert("L")
            if "A" in picture.mode or "transparency" in picture.info:
                clear = picture.convert("RGBA")
                if clear.getextrema()[3][0] < 255:
                    return clear
            return picture.convert("L" if picture.mode in _GREY else "RGB")
        except _DAMAGE as error:
            raise UsageError(f"The picture {path} is damaged ({error}). Replace or remove it.") from error


def decode_opaque(path: str | Path) -> Any:
    """``decode``, but transparent pixels are refused: what lies under them is not what a viewer sees."""
    picture = decode(path)
    if picture.mode == "RGBA":
        raise UsageError(f"The picture {path} has transparent pixels. Put it on a background of your choice first.")
    return picture


def resize(picture: Any, height: int, width: int, name: object = "") -> Any:
    """Scale so that ``height`` x ``width`` is covered (bilinear), then cut out the centre.

    Raises UsageError, by the picture's ``name``, for one so long and thin that its scaled form would be huge.
    """
    from PIL import Image

    if picture.size == (width, height):
        return picture
    scale = max(height / picture.height, width / picture.width)
    wide, high = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    if wide * high > MAX_PIXELS:
        raise UsageError(
            f"The picture {name} is {picture.width} x {picture.height}: scaled to cover {width} x {height} it "
            f"would have more than {MAX_PIXELS} pixels. Crop it to a usual shape first."
        )
    left, top = (wide - width) // 2, (high - height) // 2
    scaled = picture.resize((wide, high), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + width, top + height))


def pixels(picture: Any) -> Any:
    """The picture as uint8 [H, W, C]; C is 1, 3 or 4."""
    array = np.asarray(picture, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The picture with its header read and checked, none of its pixels decoded yet."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise EnvironmentFault("Reading pictures needs Pillow. Install it: pip install pillow.") from error
    if not Path(path).is_file():
        raise UsageError(f"There is no picture {path}.")
    with contextlib.ExitStack() as open_files, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a camera's broken notes beside the pixels are nobody's concern
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            stream = open_files.enter_context(open(str(path), "rb"))
            picture = open_files.enter_context(Image.open(stream, formats=("PNG", "JPEG")))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise UsageError(f"The picture {path} is too large: {error}") from error
        except UnidentifiedImageError as error:
            raise UsageError(f"{path} is not a PNG or JPEG picture. Convert or remove it.") from error
        except _DAMAGE as error:
            raise UsageError(f"The picture {path} cannot be read ({error}). Replace or remove it.") from error
        reason = _refusal(picture)
        if reason:
            raise UsageError(f"The picture {path} {reason}.")
        yield picture


def _refusal(picture: Any) -> str:
    if picture.width * picture.height > MAX_PIXELS:
        return f"is too large: {picture.width} x {picture.height}, more than {MAX_PIXELS} pixels"
    if picture.mode not in _EIGHT_BIT:
        return f"has more than 8 bits per channel (mode {picture.mode}); convert it to 8 bits"
    if getattr(picture, "n_frames", 1) > 1:
        return "is animated; keep one frame of it"
    return ""
