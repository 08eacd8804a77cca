"""edgekd: a small INT8 student from a suspicious teacher, with ACC and ASR measured on the file that ships.

Public names are resolved on first use, so that ``import edgekd`` loads neither torch nor onnx.
"""

from importlib import import_module
from typing import Any

from edgekd_device import __version__

_PUBLIC = {"compress": "edgekd.pipeline", "RunConfig": "edgekd.config", "resolve": "edgekd.config"}

__all__ = ["RunConfig", "__version__", "compress", "resolve"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
