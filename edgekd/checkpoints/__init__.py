"""Reading files of strangers: tensors come out, nothing runs, nothing is written, in a child process without rights.

Names are resolved on first use: the child process imports this package too, and must load neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .intake import load
    from .limits import Limits
    from .numpy_batches import read_cifar_batch
    from .plans import graph_plan
    from .sandbox import protections
    from .store import convert, digest, load_sidecar, load_student, save, sidecar_of

__all__ = [
    "Limits",
    "convert",
    "digest",
    "graph_plan",
    "load",
    "load_sidecar",
    "load_student",
    "protections",
    "read_cifar_batch",
    "save",
    "sidecar_of",
]

_HOMES = {
    "Limits": "limits",
    "convert": "store",
    "digest": "store",
    "graph_plan": "plans",
    "load": "intake",
    "load_sidecar": "store",
    "load_student": "store",
    "protections": "sandbox",
    "read_cifar_batch": "numpy_batches",
    "save": "store",
    "sidecar_of": "store",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module("." + _HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
