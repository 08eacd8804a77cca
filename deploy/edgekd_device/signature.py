"""A bundle's signature, by a key that whoever made the bundle keeps: the format of OpenSSF's model-signing.

``bundle.sig`` is a Sigstore bundle: a DSSE envelope around an in-toto statement that names every file by its SHA-256, signed
by ECDSA. `edgekd sign` writes it with model-signing, whose own command line verifies it too; here `cryptography` alone is
needed. Only what model-signing 1.1 writes with a key is taken, to the letter: no other field, no other spelling.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Mapping

from . import files
from .bundle import MANIFEST, SIGNATURE, Bundle
from .errors import EnvironmentFault, UnsafeInput, UsageError

LIMIT = 1 << 20
MEDIA = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}  # curve -> what ECDSA hashes with
AGAIN = "Fetch the bundle again from where it was made."


def verify(contents: Bundle, public_key: files.PathLike) -> str:
    """Hold a bundle whose files are those of its manifest against its signature; returns the key's SHA-256.

    public_key: a file with an elliptic-curve key in PEM form. Raises UnsafeInput where there is no signature, or it is not
    by this key of these files; UsageError for a file that is no such key; EnvironmentFault without `cryptography`.
    """
    key = PublicKey(_read(public_key))
    try:
        data = _bounded(contents.path / SIGNATURE)
    except FileNotFoundError:
        raise UnsafeInput(f"The bundle is not signed: it holds no {SIGNATURE}. {AGAIN}") from None
    except (OSError, ValueError) as error:
        raise UnsafeInput(
            f"{SIGNATURE} cannot be read: {getattr(error, 'strerror', None) or error}. {AGAIN}"
        ) from error
    hold(key.signed(data), contents)
    return key.sha256


class PublicKey:
    """A key that signatures are held against. Raises UsageError for bytes that are none, EnvironmentFault without `cryptography`."""

    def __init__(self, pem: bytes) -> None:
        try:
            from cryptography.exceptions import UnsupportedAlgorithm
            from cryptography.hazmat.primitives import serialization
        except ImportError as error:
            raise EnvironmentFault(
                "A signature cannot be checked against a key here: cryptography is not installed. On a Jetson or "
                "Debian: sudo apt install python3-cryptography; elsewhere: python3 -m pip install cryptography."
            ) from error
        try:
            self._key: Any = serialization.load_pem_public_key(pem)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            self._key = None
        self._hash = HASHES.get(getattr(getattr(self._key, "curve", None), "name", ""))
        if self._hash is None:
            raise UsageError(
                "--public-key takes the public half of an elliptic-curve key (P-256, P-384 or P-521) in PEM form: "
                "openssl ec -in key.pem -pubout -out pub.pem"
            )
        text: bytes = self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.sha256 = files.sha256_bytes(text)  # as model-signing names a key

    def signed(self, data: bytes) -> dict[str, str]:
        """What a signature says, once it is known to be by this key: file -> SHA-256. Raises UnsafeInput."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            value = json.loads(data.decode("utf-8"))
            named = value["verificationMaterial"]["publicKey"]["hint"]
            payload, mark = value["dsseEnvelope"]["payload"], value["dsseEnvelope"]["signatures"][0]["sig"]
            statement, signature = _decoded(payload), _decoded(mark)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise UnsafeInput(f"{SIGNATURE} is damaged, or not what `edgekd sign` writes. {AGAIN}") from None
        if value != _envelope(named, payload, mark):
            raise UnsafeInput(f"{SIGNATURE} is damaged, or not what `edgekd sign` writes. {AGAIN}")
        algorithm = ec.ECDSA(getattr(hashes, self._hash or "")())
        try:
            if named != self.sha256:
                raise InvalidSignature
            self._key.verify(signature, _encoded(statement), algorithm)
        except InvalidSignature:
            raise UnsafeInput(
                f"{SIGNATURE} is damaged, or made with another key than the one you named. {AGAIN}"
            ) from None
        return _resources(statement)


def hold(signed: Mapping[str, str], contents: Bundle) -> None:
    """Raise UnsafeInput unless ``signed`` names exactly the files of a bundle, its manifest among them."""
    found = {**{entry.name: entry.sha256 for entry in contents.manifest.files}, MANIFEST: contents.manifest_sha256}
    other = sorted(name for name in {*found, *signed} if found.get(name) != signed.get(name))
    if other:
        raise UnsafeInput(f"{SIGNATURE} belongs to another bundle: look at {other[0]!r}. {AGAIN}")


def _read(path: files.PathLike) -> bytes:
    try:
        return _bounded(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


def _bounded(path: files.PathLike) -> bytes:
    with open(str(path), "rb") as stream:
        data = stream.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise ValueError(f"it is larger than {LIMIT} bytes")
    return data


def _decoded(text: str) -> bytes:
    """Base64 in its one canonical spelling: what differs in bits that do not count is refused, too."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the canonical spelling")
    return data


def _envelope(hint: str, payload: str, mark: str) -> dict[str, Any]:
    """All that a signature by a key holds."""
    return {
        "mediaType": MEDIA,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {"payload": payload, "payloadType": PAYLOAD, "signatures": [{"sig": mark, "keyid": ""}]},
    }


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    return b" ".join([f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)}".encode(), payload])


def _resources(payload: bytes) -> dict[str, str]:
    """The files of a statement that is already known to be by the key; other things may be signed by it as well."""
    try:
        statement = json.loads(payload.decode("utf-8"))
        if (statement["_type"], statement["predicateType"]) != (STATEMENT, PREDICATE):
            raise ValueError("another kind of statement")
        predicate = statement["predicate"]
        if (predicate["serialization"]["method"], predicate["serialization"]["hash_type"]) != ("files", "sha256"):
            raise ValueError("not hashed file by file")
        return {str(entry["name"]): str(entry["digest"]) for entry in predicate["resources"]}
    except (ValueError, KeyError, TypeError):
        raise UnsafeInput(f"{SIGNATURE} is made with the key you named, but not for a bundle. {AGAIN}") from None
