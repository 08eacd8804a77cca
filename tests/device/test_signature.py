"""Signing a bundle and holding it against a key: real keys, model-signing's own verifier beside ours, every flipped bit."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import graph, replace_file, write_bundle

from edgekd.cli import run
from edgekd.cli import sign as command
from edgekd.export import sign as signing
from edgekd_device import bundle, files, signature
from edgekd_device.__main__ import main
from edgekd_device.errors import UnsafeInput

model_signing = pytest.importorskip("model_signing")
hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")

PEM = serialization.Encoding.PEM


def write_key(folder: Path, private: Any = None, password: bytes | None = None) -> tuple[Path, Path]:
    """A key pair as PEM files; by default a new one on P-256."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    folder.mkdir(exist_ok=True)
    (folder / "key.pem").write_bytes(private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
    public = private.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "pub.pem").write_bytes(public)
    return folder / "key.pem", folder / "pub.pem"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_key(tmp_path / "keys")


@pytest.fixture
def signed(tiny_bundle: Path, keys: tuple[Path, Path]) -> Path:
    signing.sign(tiny_bundle, keys[0])
    return tiny_bundle


def check(folder: Path, public: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and what was said; a refusal is one line and nothing on standard output."""
    code = main(["check", str(folder), "--public-key", str(public)])
    out, err = capsys.readouterr()
    assert (out == "") == (code != 0)
    assert err.count("\n") == (code != 0)
    return code, out + err


def test_a_signed_bundle_is_what_its_maker_made(tiny_bundle, keys, capsys):
    assert run(["sign", str(tiny_bundle), "--key", str(keys[0])]) == 0
    said = capsys.readouterr().out
    code, held = check(tiny_bundle, keys[1], capsys)
    assert code == 0
    sha256 = files.sha256_file(keys[1])
    assert f"sha256 {sha256}" in said
    assert f"signed by the key you named, {sha256}" in held
    (tiny_bundle / "device-report.json").write_text("{}")  # what a board adds is not signed
    assert check(tiny_bundle, keys[1], capsys)[0] == 0
    assert run(["sign", str(tiny_bundle), "--key", str(keys[0]), "--json"]) == 0  # anew, reports beside it
    assert json.loads(capsys.readouterr().out)["public_key_sha256"] == sha256
    assert check(tiny_bundle, keys[1], capsys)[0] == 0
    assert main(["check", str(tiny_bundle)]) == 0
    assert "bundle.sig is there (not checked against any key; see --public-key)" in capsys.readouterr().out


def test_model_signing_takes_what_edgekd_signed(signed, keys, tmp_path):
    there = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    there.verify(signed, signed / bundle.SIGNATURE)
    (signed / "model.onnx").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"Hash mismatch for 'model\.onnx'"):
        there.verify(signed, signed / bundle.SIGNATURE)
    other = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=write_key(tmp_path / "other")[1])
    with pytest.raises(ValueError, match="Key mismatch"):
        other.verify(signed, signed / bundle.SIGNATURE)


@pytest.mark.slow
def test_edgekd_device_takes_what_model_signings_command_line_signed(tiny_bundle, keys, capsys):
    words = ["sign", "key", str(tiny_bundle), "--private_key", str(keys[0])]
    sig = str(tiny_bundle / bundle.SIGNATURE)
    subprocess.run([sys.executable, "-m", "model_signing", *words, "--signature", sig], check=True, capture_output=True)
    assert check(tiny_bundle, keys[1], capsys)[0] == 0
    signing.sign(tiny_bundle, keys[0])
    words = ["verify", "key", str(tiny_bundle), "--public_key", str(keys[1]), "--signature", sig]
    subprocess.run([sys.executable, "-m", "model_signing", *words], check=True, capture_output=True)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_every_curve_that_model_signing_has(curve, tiny_bundle, tmp_path, capsys):
    key, public = write_key(tmp_path / "keys", ec.generate_private_key(curve))
    signing.sign(tiny_bundle, key)
    assert check(tiny_bundle, public, capsys)[0] == 0
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).verify(
        tiny_bundle, tiny_bundle / bundle.SIGNATURE
    )


def test_another_key_and_no_signature_are_refused(signed, keys, tmp_path, capsys):
    code, said = check(signed, write_key(tmp_path / "other")[1], capsys)
    assert (code, "made with another key than the one you named" in said) == (3, True)
    (signed / bundle.SIGNATURE).unlink()
    code, said = check(signed, keys[1], capsys)
    assert (code, "is not signed: it holds no bundle.sig" in said) == (3, True)
    (signed / bundle.SIGNATURE).write_bytes(b" " * (signature.LIMIT + 1))
    code, said = check(signed, keys[1], capsys)
    assert (code, "larger than" in said) == (3, True)


def test_no_flipped_bit_of_a_signature_is_accepted(signed, keys):
    """Every byte with one bit turned over; a signature that differs in what does not count would be accepted elsewhere."""
    good, key = (signed / bundle.SIGNATURE).read_bytes(), signature.PublicKey(keys[1].read_bytes())
    accepted = []
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        try:
            accepted.append((position, key.signed(bytes(data))))
        except UnsafeInput:
            continue
    assert accepted == []
    signature.hold(key.signed(good), bundle.read(signed))


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.u8s8.onnx", "probe.npz", "edgekd-device.pyz"])
def test_one_flipped_bit_of_any_file_is_refused(name, signed, keys, capsys):
    good = (signed / name).read_bytes()
    for position in range(0, len(good), max(1, len(good) // 20)):
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        (signed / name).write_bytes(data)
        code, said = check(signed, keys[1], capsys)
        assert code in (2, 3), said
    (signed / name).write_bytes(good)
    assert check(signed, keys[1], capsys)[0] == 0


def test_who_can_forge_the_whole_bundle_cannot_forge_its_signature(signed, keys, capsys):
    replace_file(signed, "model.onnx", graph(scale=3.0))
    assert main(["check", str(signed)]) == 0  # whole, as far as its own manifest says
    capsys.readouterr()
    code, said = check(signed, keys[1], capsys)
    assert (code, "bundle.sig belongs to another bundle: look at 'manifest.json'" in said) == (3, True)


def _statement(**changes: Any) -> dict[str, Any]:
    predicate = {"serialization": {"method": "files", "hash_type": "sha256"}, "resources": []}
    return {"_type": signature.STATEMENT, "predicateType": signature.PREDICATE, "predicate": predicate, **changes}


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (_statement(), "belongs to another bundle"),
        (_statement(predicateType="https://slsa.dev/provenance/v1"), "but not for a bundle"),
        (_statement(_type="https://in-toto.io/Statement/v0.1"), "but not for a bundle"),
        (_statement(predicate={"serialization": {"method": "shards", "hash_type": "sha256"}}), "but not for a bundle"),
        (_statement(predicate={"serialization": {"method": "files", "hash_type": "blake3"}}), "but not for a bundle"),
        (_statement(predicate=None), "but not for a bundle"),
        ([], "but not for a bundle"),
    ],
)
def test_what_else_the_key_signed_is_no_bundle(payload, words, tiny_bundle, tmp_path, capsys):
    private = ec.generate_private_key(ec.SECP256R1())
    _, public = write_key(tmp_path / "keys", private)
    data = json.dumps(payload).encode()
    mark = private.sign(signature._encoded(data), ec.ECDSA(hashes.SHA256()))
    said = [base64.b64encode(part).decode() for part in (data, mark)]
    (tiny_bundle / bundle.SIGNATURE).write_text(json.dumps(signature._envelope(files.sha256_file(public), *said)))
    code, line = check(tiny_bundle, public, capsys)
    assert (code, words in line) == (3, True)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b"null", b'{"dsseEnvelope": 1}', b"[" * 100_000])
def test_what_is_no_signature(data, tiny_bundle, keys, capsys):
    (tiny_bundle / bundle.SIGNATURE).write_bytes(data)
    code, said = check(tiny_bundle, keys[1], capsys)
    assert (code, "is damaged, or not what `edgekd sign` writes" in said) == (3, True)


def _rsa() -> Any:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    "make", [ed25519.Ed25519PrivateKey.generate, _rsa, lambda: ec.generate_private_key(ec.SECP256K1())]
)
def test_keys_of_another_kind_are_refused_on_both_sides(make, signed, tmp_path, capsys):
    key, public = write_key(tmp_path / "odd", make())
    code, said = check(signed, public, capsys)
    assert (code, "openssl ec -in key.pem -pubout" in said) == (2, True)
    before = (signed / bundle.SIGNATURE).read_bytes()
    assert run(["sign", str(signed), "--key", str(key)]) == 2
    assert "openssl ecparam -name prime256v1 -genkey" in capsys.readouterr().err
    assert (signed / bundle.SIGNATURE).read_bytes() == before


def test_files_that_are_no_keys(signed, keys, tmp_path, capsys):
    (tmp_path / "rubbish.pem").write_text("rubbish")
    for wrong in (keys[0], tmp_path / "rubbish.pem", tmp_path / "nowhere.pem", tmp_path):
        assert check(signed, wrong, capsys)[0] == 2
    for wrong in (keys[1], tmp_path / "rubbish.pem", tmp_path / "nowhere.pem"):
        assert run(["sign", str(signed), "--key", str(wrong)]) == 2
        assert str(wrong) in capsys.readouterr().err


def test_the_password_of_a_locked_key_is_asked_in_a_terminal(tiny_bundle, tmp_path, monkeypatch, capsys):
    key, public = write_key(tmp_path / "locked", password=b"open it")
    words = ["sign", str(tiny_bundle), "--key", str(key)]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert run(words) == 2
    assert "private key is encrypted. Run `edgekd sign` in a terminal" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for password, code in (("wrong", 2), ("open it", 0)):
        monkeypatch.setattr(command.typer, "prompt", lambda *a, password=password, **k: password)
        assert run(words) == code
    assert "or the password does not open it" in capsys.readouterr().err
    assert check(tiny_bundle, public, capsys)[0] == 0


@pytest.mark.parametrize("point", ["before_write", "before_rename"])
def test_a_full_disk_leaves_the_signature_of_before(point, signed, keys, tmp_path, monkeypatch, capsys):
    before = (signed / bundle.SIGNATURE).read_bytes()
    monkeypatch.setattr(files, "_reached", {})
    monkeypatch.setenv("EDGEKD_FAULT", f"bundle-signature.{point}:1:enospc")
    assert run(["sign", str(signed), "--key", str(write_key(tmp_path / "new")[0])]) == 4
    assert "Could not write" in capsys.readouterr().err
    assert (signed / bundle.SIGNATURE).read_bytes() == before
    assert check(signed, keys[1], capsys)[0] == 0


def test_only_a_whole_bundle_is_signed(tiny_bundle, keys, capsys):
    (tiny_bundle / "model.onnx").write_bytes(b"x")
    assert run(["sign", str(tiny_bundle), "--key", str(keys[0])]) == 2
    assert not (tiny_bundle / bundle.SIGNATURE).exists()


def test_what_is_written_anew_is_no_longer_signed(tmp_path, keys):
    folder = write_bundle(tmp_path)
    signing.sign(folder, keys[0])
    write_bundle(tmp_path)
    assert not (folder / bundle.SIGNATURE).exists()


def test_without_model_signing_or_cryptography_nothing_passes(signed, keys, monkeypatch, capsys):
    hide: Callable[..., None] = monkeypatch.setitem
    hide(sys.modules, "model_signing", None)
    assert run(["sign", str(signed), "--key", str(keys[0])]) == 4
    assert "pip install 'edgekd[sign]'" in capsys.readouterr().err
    hide(sys.modules, "cryptography.exceptions", None)
    code, said = check(signed, keys[1], capsys)
    assert (code, "apt install python3-cryptography" in said) == (4, True)
