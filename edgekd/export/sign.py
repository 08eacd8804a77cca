"""Signing a bundle with a key of one's own, in the format of OpenSSF's model-signing; nothing is asked of a network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from edgekd_device import bundle as reader
from edgekd_device import signature

from ..errors import EnvironmentFault, UsageError
from ..files import write_bytes


class Locked(UsageError):
    """The key is encrypted and no password, or another, was given."""


def sign(folder: Path, key: Path, password: str | None = None) -> str:
    """Write ``bundle.sig`` into the bundle in ``folder``; returns the SHA-256 of the public half of ``key``.

    The manifest and every file that it lists are signed, each by its SHA-256; a board's reports are not. key: an
    elliptic-curve private key (P-256, P-384, P-521) in PEM form. The signature is held against the public half before it is put
    in place. Raises UsageError for another key (Locked where a password opens it) or a bad bundle, EnvironmentFault without
    model-signing.
    """
    try:
        from model_signing import hashing, signing
    except ImportError as error:
        raise EnvironmentFault(
            f"Signing needs model-signing ({error.name} is not installed): python -m pip install 'edgekd[sign]'"
        ) from error
    contents, public = reader.read(folder), _public(key, password)
    listed = {reader.MANIFEST, *(entry.name for entry in contents.manifest.files)}
    others = hashing.Config().set_ignored_paths(
        paths=sorted({reader.SIGNATURE, *os.listdir(folder)} - listed), ignore_git_paths=False
    )
    opened: Any = None if password is None else password.encode()  # it says str and takes bytes
    with tempfile.TemporaryDirectory() as elsewhere:  # model-signing writes by itself, and not atomically
        made = Path(elsewhere) / reader.SIGNATURE
        signer = signing.Config().use_elliptic_key_signer(private_key=key, password=opened)
        signer.set_hashing_config(others).sign(folder, made)
        data = made.read_bytes()
    signature.hold(public.signed(data), contents)
    write_bytes(Path(folder) / reader.SIGNATURE, data, "bundle-signature")
    return public.sha256


def _public(key: Path, password: str | None) -> signature.PublicKey:
    """The public half of a private key, which model-signing would otherwise find wrong in its own words."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        private: Any = serialization.load_pem_private_key(
            key.read_bytes(), None if password is None else password.encode()
        )
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return signature.PublicKey(public)
    except OSError as error:
        raise UsageError(f"Cannot read {key}: {error.strerror or error}.") from error
    except TypeError as error:  # encrypted and no password, or the other way round
        raise Locked(f"{key}: {error}. Run `edgekd sign` in a terminal, where it asks for it.") from error
    except (ValueError, UnsupportedAlgorithm, UsageError) as error:
        kind = UsageError if password is None else Locked
        raise kind(
            f"{key} is not an elliptic-curve private key (P-256, P-384 or P-521) in PEM form"
            f"{'' if password is None else ', or the password does not open it'}. Make one: "
            "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        ) from error
