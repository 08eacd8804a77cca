"""The engines that this device built, and no other.

An engine is native code: loading a foreign one runs it. So each is sealed with a key that never leaves the device (HMAC
over what is said of it and the very bytes that are loaded), in a folder that no other user may enter. The device's own
identity is part of the key, so that a whole folder from elsewhere, with its key, holds nothing here. There is no way to
bring one in. What does not fit, for whatever reason, is built again.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import shutil
import time
from hashlib import sha256
from pathlib import Path
from typing import Any, Mapping, NamedTuple

from .. import environment, files
from ..errors import EnvironmentFault

VARIABLE = "EDGEKD_ENGINES"
FORMAT = "engines-1"  # another format is another folder
KEY, KEY_BYTES = "key", 32
LIMIT = 4 << 30
# What tells devices apart; a container shows the first where it is mounted, and the second never.
IDENTITIES = ("etc/machine-id", "proc/device-tree/serial-number")
OLD = 3600.0  # seconds after which a temporary file is nobody's
# How the fields that an engine is tied to are called in a message.
WORDS = {
    "kind": "use as",
    "onnx_sha256": "the file",
    "tensorrt": "TensorRT",
    "gpu": "the GPU",
    "compute_capability": "compute capability",
    "processors": "a number of multiprocessors of",
    "board": "the board",
    "cuda_driver": "CUDA",
}


def folder() -> Path:
    """Where engines are kept: EDGEKD_ENGINES, or the user's cache; raises EnvironmentFault where there is neither."""
    chosen = os.environ.get(VARIABLE)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = Path(chosen or os.path.join(cache, "edgekd", FORMAT))
    if not path.is_absolute():
        raise EnvironmentFault(f"There is no folder for engines. Set {VARIABLE} to the absolute path of one.")
    return path


def identity(root: str = "/") -> bytes:
    """What tells this device from others, as far as it says it; never written down."""
    return "\n".join(environment.read(root, name) or "" for name in IDENTITIES).encode("utf-8")


class Found(NamedTuple):
    """What was kept: the bytes and what was said of them, or None and why (empty where there was nothing)."""

    data: bytes | None
    fields: dict[str, Any]
    why: str


class Store:
    """Sealed files in one folder. Raises EnvironmentFault where the folder cannot be used."""

    def __init__(self, path: files.PathLike | None = None) -> None:
        try:
            self.path = files.private_folder(folder() if path is None else path)
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{error} To use another folder for engines, set {VARIABLE}.") from error
        self._sweep()
        self._key = hmac.new(self._own_key(), identity(), sha256).digest()

    def _sweep(self) -> None:
        """Delete what a killed write left; what is young may be another process's, on its way."""
        for leftover in self.path.glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > OLD:
                    leftover.unlink()

    def _own_key(self) -> bytes:
        """The key of this folder; one that is damaged or that others may have read is replaced, and nothing it sealed holds."""
        path = self.path / KEY
        try:
            key = files.read_own(path, KEY_BYTES)
            if len(key) == KEY_BYTES and not os.lstat(str(path)).st_mode & 0o077:
                return key
        except (OSError, ValueError):
            pass
        files.write_bytes(path, os.urandom(KEY_BYTES), "engine-key", 0o600)
        return files.read_own(path, KEY_BYTES)  # another process may have been faster

    def _seal(self, fields: Mapping[str, Any], data: bytes) -> str:
        seal = hmac.new(self._key, files.canonical_json(fields).encode("utf-8") + b"\n", sha256)
        seal.update(data)
        return seal.hexdigest()

    def load(self, name: str, wanted: Mapping[str, Any]) -> Found:
        """The bytes kept as ``name``, if they are whole, of this device and made for ``wanted``.

        wanted: what they are tied to; the fields that were kept hold these, and more.
        """
        try:
            data = files.read_own(self.path / name, LIMIT)
        except FileNotFoundError:
            return Found(None, {}, "")
        except (OSError, ValueError) as error:
            return Found(None, {}, f"it cannot be read: {getattr(error, 'strerror', None) or error}")
        try:
            fields = json.loads(files.read_own(self.path / (name + ".json"), 1 << 20).decode("utf-8"))
            seal, made = str(fields.pop("seal")).encode(), self._seal(fields, data).encode()
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
            return Found(None, {}, "its companion files are missing or damaged: writing it was cut short")
        if not hmac.compare_digest(seal, made):
            return Found(None, {}, "its seal does not hold: it was cut short, changed, or made elsewhere")
        for key, value in wanted.items():
            if fields.get(key) != value:
                word, before = WORDS.get(key, key), fields.get(key, "unknown")
                return Found(None, fields, f"it was made for {word} {before!s:.80}, but here it is {value!s:.80}")
        return Found(data, fields, "")

    def save(self, name: str, fields: Mapping[str, Any], data: bytes) -> None:
        """Keep ``data`` as ``name``; a kill in between is found out by ``load``.

        Raises EnvironmentFault where the disk is full; there is nothing then under that name.
        """
        sealed = {**fields, "seal": self._seal(fields, data)}
        try:
            files.write_bytes(self.path / name, data, "engine", 0o600)
            files.write_bytes(self.path / (name + ".json"), files.json_bytes(sealed), "engine-seal", 0o600)
        except EnvironmentFault:
            for part in (name, name + ".json"):
                with contextlib.suppress(OSError):
                    os.unlink(str(self.path / part))
            raise

    def room_for(self, size: int) -> None:
        """Raise EnvironmentFault unless ``size`` bytes are free: before minutes of building, not after."""
        free = shutil.disk_usage(str(self.path)).free
        if free < size:
            raise EnvironmentFault(
                f"{self.path} has {free / 1e6:.0f} MB free, but an engine may take {size / 1e6:.0f} MB. Free some "
                f"space, or set {VARIABLE} to another folder."
            )
