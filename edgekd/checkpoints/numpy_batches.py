"""CIFAR's Python release: pickles of one uint8 array and a list of labels, read by the restricted machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import limits as bounds
from .limits import Limits
from .numpy_values import ARRAY_NAMES, Array, Dtype, set_array, set_dtype
from .opcodes import BYTES, CHECKPOINT_OPCODES, Rules, read
from .wording import DAMAGED

if TYPE_CHECKING:
    import numpy as np

IMAGE_BYTES = 3072  # 3 x 32 x 32, red, green, blue planes
CLASSES = 1000
_RULES = Rules(
    (CHECKPOINT_OPCODES - {"BINPERSID"}) | BYTES | {"STACK_GLOBAL"},
    ARRAY_NAMES,
    states={Array: set_array, Dtype: set_dtype},
    strings_2_are_bytes=True,
    string_limit=bounds.BATCH_PICKLE_BYTES,
    way_out="Nothing in it was run. Use the binary release of CIFAR or an .npz of images and labels.",
)


def read_batch(data: bytes) -> tuple[list[int], tuple[int, int], bytes]:
    """Labels, the array's shape [N, 3072] and its bytes row by row; raises UnsafeInput and UsageError."""
    tree, end = read(data, _RULES)
    if end != len(data):
        raise UsageError(f"Bytes follow the end of its pickle. {DAMAGED}")
    named: dict[Any, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else ():
        named[key.decode("latin-1") if isinstance(key, bytes) else key] = value
    array, labels = named.get("data"), named.get("labels", named.get("fine_labels"))
    if not isinstance(array, Array) or not isinstance(labels, list):
        raise UsageError("It is not a batch of CIFAR: it has no `data` array with `labels` or `fine_labels`.")
    if len(array.shape) != 2 or array.shape[1] != IMAGE_BYTES or array.shape[0] != len(labels) or not labels:
        raise UsageError(f"It has images {list(array.shape)} for {len(labels)} labels; CIFAR has [N, {IMAGE_BYTES}].")
    if not all(type(label) is int and 0 <= label < CLASSES for label in labels):
        raise UsageError(f"Its labels are not class numbers. {DAMAGED}")
    count = len(labels)
    if array.fortran:
        columns = memoryview(array.data)
        turned = bytearray(len(columns))
        for column in range(IMAGE_BYTES):
            turned[column::IMAGE_BYTES] = columns[column * count : (column + 1) * count]
        return labels, (count, IMAGE_BYTES), bytes(turned)
    return labels, (count, IMAGE_BYTES), array.data


def read_cifar_batch(path: str | Path) -> tuple[np.ndarray, list[int]]:
    """Images uint8 [N, 3072] and labels of one ``data_batch_*``, ``test_batch``, ``train`` or ``test`` file.

    Raises UnsafeInput for a pickle that holds anything else, UsageError for a damaged or a foreign file.
    """
    import numpy as np

    from .intake import read_once
    from .sandbox import run

    name, data = read_once(path, Limits())
    header, pixels = run("cifar", data, name)
    labels = header.get("labels")
    if not isinstance(labels, list) or len(pixels) != len(labels) * IMAGE_BYTES:
        raise UsageError(f"{name}: its labels and images do not fit. {DAMAGED}")
    return np.frombuffer(pixels, np.uint8).reshape(-1, IMAGE_BYTES), [int(label) for label in labels]
