"""Reading a bundle as if a stranger had sent it: names, sizes and hashes first, contents after.

A bundle is a folder: manifest.json, the ONNX files, probe.npz and the device package itself. A damaged or incomplete
one is a UsageError (exit 2); one that reaches outside itself or is not the one expected is UnsafeInput (exit 3).
"""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple

from . import checks, files
from .errors import UnsafeInput, UsageError
from .records import ORIGINS, SCHEMA, BundleManifest, StageRow, check_schema

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "manifest.json"
PROBES = "probe.npz"
PACKAGE = "edgekd-device.pyz"
REPORT = "device-report.json"
SIGNATURE = "bundle.sig"  # of the manifest and all that it lists; see `signature`
# What may be added: a signature, a board's reports with their raw times (a killed write leaves a .part). Engines are kept
# elsewhere.
ADDED = (SIGNATURE, f".{SIGNATURE}.*.part", "device-report*.json", "device-report*.times.npz", ".device-report*.part")
ANSWERS = "answers_"  # in front of a model file's name: the array of the host's answers by it
MANIFEST_LIMIT = 16 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Bundle(NamedTuple):
    """A bundle whose files are those of its manifest, byte for byte."""

    path: Path
    manifest: BundleManifest
    manifest_sha256: str

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the model files, the one that ships first."""
        names = [entry.name for entry in self.manifest.files if entry.name.endswith(".onnx")]
        return tuple(sorted(names, key=lambda name: (name != self.manifest.model, name)))

    def model(self, name: str) -> bytes:
        """The bytes of one model file, hashed again as they are read."""
        data = (self.path / name).read_bytes()
        if files.sha256_bytes(data) not in [entry.sha256 for entry in self.manifest.files if entry.name == name]:
            raise UsageError(f"{name} changed while it was read. Copy the bundle again.")
        return data


class Triggered(NamedTuple):
    """The probe images that carry one trigger: uint8 [M, C, H, W], positions in the clean images, attacker's labels."""

    name: str
    origin: str
    images: np.ndarray
    positions: np.ndarray
    attacker_labels: np.ndarray


class Probes(NamedTuple):
    """The images every runtime sees: uint8 [N, C, H, W], labels int64 [N], and the same with triggers.

    answers: model file -> the host's answers to the images by it, labels [N]; not of every file, and of none in older bundles.
    """

    images: np.ndarray
    labels: np.ndarray
    triggered: tuple[Triggered, ...]
    answers: Mapping[str, np.ndarray]


def read(path: files.PathLike, manifest_sha256: str | None = None) -> Bundle:
    """The bundle in the folder ``path``, every file held against the manifest.

    manifest_sha256: what `edgekd compress` printed; the manifest must be that one. Raises UsageError, UnsafeInput.
    """
    folder = Path(path)
    try:
        present = _present(folder)
        if MANIFEST not in present:
            raise UsageError(
                f"{folder} holds no {MANIFEST}: it is not a bundle, or its export was cut short. "
                "Give the folder that `edgekd compress` wrote."
            )
        found = files.sha256_file(folder / MANIFEST)
        if manifest_sha256 is not None and found != manifest_sha256.strip().lower():
            raise UnsafeInput(
                f"This is not the bundle you expect: its manifest's SHA-256 is {found}. "
                "Fetch the bundle again from where it was made."
            )
        manifest = _manifest(folder / MANIFEST)
        _hold_against(manifest, folder, present)
    except OSError as error:
        raise UsageError(f"Cannot read the bundle {folder}: {error.strerror or error}.") from error
    return Bundle(folder, manifest, found)


def _present(folder: Path) -> dict[str, int]:
    """Sizes of the bundle's files; refuses whatever is not a plain file before anything is opened."""
    present = {}
    with os.scandir(str(folder)) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise UnsafeInput(
                    f"{entry.name!r} in the bundle is not a plain file (a link, folder or device). "
                    "Copy the bundle again with real files only."
                )
            present[entry.name] = entry.stat(follow_symlinks=False).st_size
    return present


def _hold_against(manifest: BundleManifest, folder: Path, present: dict[str, int]) -> None:
    """Refuse missing, extra, shortened and changed files, each with one message."""
    listed = {entry.name: entry for entry in manifest.files}
    missing = sorted(set(listed) - set(present))
    if missing:
        raise UsageError("The bundle lacks {}. Copy the whole bundle again.".format(", ".join(missing)))
    extra = sorted(
        name
        for name in set(present) - set(listed) - {MANIFEST}
        if not any(fnmatch.fnmatch(name, pattern) for pattern in ADDED)
    )
    if extra:
        raise UsageError(
            "The bundle holds {}, which its manifest does not list. Remove it, or copy the bundle again.".format(
                ", ".join(repr(name) for name in extra)
            )
        )
    for name, entry in sorted(listed.items()):
        if present[name] != entry.bytes:
            raise UsageError(f"{name} has {present[name]} bytes instead of {entry.bytes}. Copy the bundle again.")
        if files.sha256_file(folder / name) != entry.sha256:
            raise UsageError(f"{name} is damaged: its SHA-256 differs from the manifest's. Copy it again.")


def _text(value: Any) -> bool:
    # Unprintable characters (control, bidirectional) would let a name rewrite what the terminal shows.
    return isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable()


def _hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 40


def _file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"name", "bytes", "sha256"}
        and isinstance(value["name"], str)
        and (_count(value["bytes"]) and _hash(value["sha256"]))
    )


def _trigger(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(map(_text, value.values()))
        and ("name" in value and value.get("origin") in ORIGINS)
    )


def _rows(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        rows = [StageRow.from_json(row) for row in value.values()]
    except UsageError:
        return False
    return all(_text(word) for row in rows for word in (row.stage, row.runtime, row.precision))


FIELDS: dict[str, checks.Check] = {
    "schema": _count,
    "edgekd_version": _text,
    "target": _text,
    "runtime": _text,
    "model": _text,
    "precision": _text,
    "input_shape": checks.several(_count, 3),
    "num_classes": _count,
    "class_names": checks.several(_text),
    "teacher_sha256": _hash,
    "student_sha256": _hash,
    "files": checks.several(_file),
    "triggers": checks.several(_trigger),
    "floors": checks.named(checks.rate),
    "references": _rows,
    "threads": _count,
    "labelled": checks.flag,
}
OPTIONAL = ("triggers", "floors", "references", "threads", "labelled")


def _manifest(path: Path) -> BundleManifest:
    """The manifest, every field checked for its type and against the others."""
    value = check_schema(files.read_json(path, MANIFEST_LIMIT), "bundle manifest")
    wrong = [name for name in value if name not in FIELDS]
    wrong += [name for name in FIELDS if name not in value and name not in OPTIONAL]
    wrong += [name for name, check in FIELDS.items() if name in value and not check(value[name])]
    if wrong:
        raise UsageError(
            f"The bundle's manifest is not one that edgekd wrote (schema {SCHEMA}): look at {wrong[0]!r}. "
            "Export the bundle again."
        )
    manifest = BundleManifest.from_json(value)
    names = [entry.name for entry in manifest.files]
    for name in names:
        if NAME.fullmatch(name) is None:
            raise UnsafeInput(f"The bundle lists a file named {name!r}, which could reach outside it.")
    for problem in _contradictions(manifest, names):
        raise UsageError(f"The bundle's manifest contradicts itself: {problem}. Export the bundle again.")
    return manifest


def _contradictions(manifest: BundleManifest, names: list[str]) -> list[str]:
    """What cannot be true of one bundle."""
    triggers = [trigger["name"] for trigger in manifest.triggers]
    rules = (
        (len({name.lower() for name in [*names, MANIFEST]}) <= len(names), "a file is listed twice"),
        (manifest.model not in names or not manifest.model.endswith(".onnx"), "the model that ships is not in it"),
        (PROBES not in names, "it has no " + PROBES),
        (PACKAGE not in names, "it has no " + PACKAGE),
        (len(manifest.class_names) != manifest.num_classes, "the class names do not match the number of classes"),
        (len(set(triggers)) < len(triggers), "a trigger is listed twice"),
        (not set(manifest.floors) <= set(triggers), "a floor belongs to no trigger"),
        (not set(manifest.references) <= set(names), "a reference belongs to no file"),
    )
    return [problem for broken, problem in rules if broken]


def probes(contents: Bundle) -> Probes:
    """The probe images of a bundle; raises UsageError or UnsafeInput where they do not fit its manifest."""
    import numpy as np  # here, because `info` must run where it is absent

    from . import arrays

    manifest = contents.manifest
    parts = ("images", "index", "attacker")
    groups = [[f"trigger{k}_{part}" for part in parts] for k in range(len(manifest.triggers))]
    kinds = {"images": "uint8", "labels": "int64"}
    for images, index, attacker in groups:
        kinds.update({images: "uint8", index: "int64", attacker: "int64"})
    answered = {ANSWERS + name: name for name in contents.models}
    kinds.update(dict.fromkeys(answered, np.min_scalar_type(manifest.num_classes - 1).name))
    stored = sum(entry.bytes for entry in manifest.files if entry.name == PROBES)  # it is not packed
    found = arrays.read_npz(contents.path / PROBES, limit_bytes=stored)
    absent = set(kinds) - set(answered) - set(found)
    wrong = sorted(absent | (set(found) - set(kinds))) + sorted(
        n for n in kinds if n in found and found[n].dtype != kinds[n]
    )
    if wrong:
        raise UsageError(f"{PROBES} does not fit its manifest: look at {wrong[0]!r}. Export the bundle again.")
    triggered = tuple(
        Triggered(trigger["name"], trigger["origin"], *(found[name] for name in names))
        for trigger, names in zip(manifest.triggers, groups)
    )
    answers = {name: found[array] for array, name in answered.items() if array in found}
    result = Probes(found["images"], found["labels"], triggered, answers)
    _fit(result, manifest)
    return result


def _fit(found: Probes, manifest: BundleManifest) -> None:
    """Raise UsageError unless shapes, labels and positions agree with one another and with the manifest."""
    groups = [("images", found.images, found.labels, manifest.num_classes)]
    groups += [(name, found.images, answers, manifest.num_classes) for name, answers in found.answers.items()]
    for t in found.triggered:
        groups.append((t.name, t.images, t.positions, found.labels.size))
        groups.append((t.name, t.images, t.attacker_labels, manifest.num_classes))
    for name, images, numbers, limit in groups:
        fits = images.shape == (numbers.size, *manifest.input_shape) and numbers.ndim == 1
        if not fits or numbers.size == 0 or numbers.min() < 0 or numbers.max() >= limit:
            raise UsageError(
                f"{PROBES} does not fit its manifest: shapes, labels or positions of {name!r} are out of range. "
                "Export the bundle again."
            )
    for t in found.triggered:
        if (found.labels[t.positions] == t.attacker_labels).all():
            raise UsageError(
                f"{PROBES} has nothing to count for {t.name!r}: every image already has the attacker's class. Export "
                "the bundle again."
            )
