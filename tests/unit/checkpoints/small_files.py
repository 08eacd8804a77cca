"""Small checkpoint files and pickles, made in code."""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

import torch


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3),
        "bn.running_var": torch.rand(4),
        "bn.num_batches_tracked": torch.tensor(7),
    }


def saved(value: Any, legacy: bool = False, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not legacy, **options)
    return out.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def batch(images: bytes, labels: Any, shape: Any = None, **fields: Any) -> bytes:
    """A CIFAR batch as Python 2 pickled it: byte strings, protocol 2, an array from its state."""
    count = len(images) // 3072
    size = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in shape or (count, 3072)) + b"t"
    order = b"\x88" if fields.get("fortran") else b"\x89"
    dtype = (
        b"cnumpy\ndtype\nU\x02"
        + fields.get("dtype", b"u1")
        + b"K\x00K\x01\x87R(K\x03U\x01"
        + fields.get("endian", b"|")
    )
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + size + dtype + order
    array += b"T" + struct.pack("<i", len(images)) + images + b"tb"
    key = fields.get("key", b"labels")
    tail = b"U" + bytes([len(key)]) + key + pickle.dumps(labels, 2)[2:-1]
    return b"\x80\x02}(U\x04data" + array + tail + b"u."
