"""Writing the bundle, the folder that goes to the board: manifest last, the same bytes for the same contents."""

from __future__ import annotations

import dataclasses
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgekd_device
from edgekd_device import bundle as reader
from edgekd_device import graph_facts
from edgekd_device.runtime.base import about

from ..errors import UsageError
from ..files import sha256_bytes, sha256_file, write_bytes, write_json, write_with
from ..types import BundleFile, BundleManifest, ModelSpec, OnnxFile, ProbeSet, Rate, StageRow, Target
from .onnx import FLAVOURS

ENTRY = "from edgekd_device.__main__ import main\n\nraise SystemExit(main())\n"
SYMMETRIC = frozenset(row.file for row in FLAVOURS.values() if row.quantizer == "s8")  # what TensorRT builds from
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write(
    folder: Path,
    *,
    target: Target,
    spec: ModelSpec,
    class_names: Sequence[str],
    onnx: Sequence[OnnxFile],
    probes: ProbeSet,
    floors: Mapping[str, Rate],
    teacher_sha256: str,
    student_sha256: str,
    references: Mapping[str, StageRow | dict[str, Any]],
    labelled: bool = True,
    answers: Mapping[str, np.ndarray] | None = None,
) -> tuple[Path, str]:
    """Write the bundle into ``folder`` and read it back; returns the manifest's path and SHA-256.

    references: model file name -> what the host measured on it, stored without its timings. labelled: false where the
    probes' labels are the teacher's answers, which measure no ACC; a reference's is then agreement. answers: model file name
    -> labels [N] that the host gave the clean probe images by it, which the board's are counted against. A folder cut short
    by a kill is refused by the reader, because its files are not those of its manifest, and is written again.
    Raises UsageError when files that the target asks for are missing, or one for TensorRT holds what it misreads.
    """
    folder = Path(folder)
    models = {Path(file.path).name: file for file in onnx}
    missing = sorted({target.ships, *target.files} - set(models))
    if missing:
        raise UsageError(f"The target {target.name} needs {', '.join(missing)}, which was not exported.")
    names = [*models, reader.PROBES, reader.PACKAGE]
    for stale in (*folder.glob("*.onnx"), *folder.glob(reader.SIGNATURE)):  # a signature is of what was here before
        if stale.name not in models:
            stale.unlink()
    write_bytes(folder / reader.PACKAGE, package(), "bundle-package")  # first: `unfinished` knows the folder by it
    for name, file in models.items():
        _copy(file, folder / name, symmetric=name in SYMMETRIC or (target.runtime, target.ships) == ("tensorrt", name))
    smallest = np.min_scalar_type(spec.num_classes - 1)  # one byte an image for up to 256 classes
    said = {reader.ANSWERS + n: (answers or {})[n].astype(smallest) for n in sorted(models) if n in (answers or {})}
    write_with(folder / reader.PROBES, lambda path: _fill_probes(path, probes, said), "bundle-probes")
    manifest = BundleManifest(
        edgekd_version=edgekd_device.__version__,
        target=target.name,
        runtime=target.runtime,
        model=target.ships,
        precision=target.precision,
        input_shape=spec.input.shape,
        num_classes=spec.num_classes,
        class_names=tuple(class_names),
        teacher_sha256=teacher_sha256,
        student_sha256=student_sha256,
        files=tuple(_entry(folder / name) for name in sorted(names)),
        triggers=tuple({"name": t.trigger, "origin": t.origin} for t in probes.triggered),
        floors={t.trigger: floors[t.trigger].to_json() for t in probes.triggered if t.trigger in floors},
        references={name: _untimed(references[name]) for name in sorted(models) if name in references},
        threads=target.threads,
        labelled=labelled,
    )
    path = write_json(folder / reader.MANIFEST, manifest.to_json(), "bundle-manifest")
    return path, reader.read(folder).manifest_sha256


def unfinished(folder: Path) -> bool:
    """Whether ``write`` may begin here: there is nothing, or what a kill left of it before the manifest was written.

    Without the device package, which comes first, a ``model.onnx`` may be anybody's.
    """
    if not folder.is_dir():
        return not folder.exists()
    names = {path.name for path in folder.iterdir()}
    wholes = {re.sub(r"^\.(.+)\.\w+\.part$", r"\1", name) for name in names}  # of half-written files too
    ours = {*(row.file for row in FLAVOURS.values()), reader.PACKAGE, reader.PROBES, reader.MANIFEST}
    return not names or (reader.PACKAGE in wholes and wholes <= ours and reader.MANIFEST not in names)


def package() -> bytes:
    """The device package as one runnable file: `python3 edgekd-device.pyz run BUNDLE`. Stored, sorted, no dates."""
    root = Path(edgekd_device.__file__).parent
    sources = {str(path.relative_to(root.parent)): path.read_bytes() for path in root.rglob("*.py")}
    sources["__main__.py"] = ENTRY.encode()
    stream = io.BytesIO()
    stream.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(stream, "a") as archive:
        for name, data in sorted(sources.items()):
            archive.writestr(_member(name), data)
    return stream.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info


def _fill_probes(path: Path, probes: ProbeSet, answers: Mapping[str, np.ndarray]) -> None:
    """The npz of `edgekd_device.bundle.probes`, written array by array so that large sets need no second copy."""
    arrays = {"images": probes.images, "labels": probes.labels}
    for k, t in enumerate(probes.triggered):
        arrays.update(
            {f"trigger{k}_images": t.images, f"trigger{k}_index": t.index, f"trigger{k}_attacker": t.attacker_labels}
        )
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in {**arrays, **answers}.items():
            with archive.open(_member(name + ".npy"), "w", force_zip64=True) as stream:
                kind = array.dtype if name in answers else np.uint8 if name.endswith("images") else np.int64
                np.lib.format.write_array(stream, np.ascontiguousarray(array, kind), version=(1, 0), allow_pickle=False)


def _copy(file: OnnxFile, destination: Path, symmetric: bool) -> None:
    """Put an exported graph in place; it must be the one that was checked at its export, and fit for its runtime."""
    data = Path(file.path).read_bytes()
    if sha256_bytes(data) != file.sha256:
        raise UsageError(f"{file.path} changed after its export. Run the same command again to export it anew.")
    if symmetric:
        with about(destination.name):
            graph_facts.read(data)
    write_bytes(destination, data, "bundle-model")


def _entry(path: Path) -> BundleFile:
    return BundleFile(path.name, path.stat().st_size, sha256_file(path))


def _untimed(row: StageRow | dict[str, Any]) -> dict[str, Any]:
    """The row without what changes from run to run, which must not change the manifest's bytes."""
    row = row if isinstance(row, StageRow) else StageRow.from_json(row)
    return dataclasses.replace(row, latency=None, energy_mj=None, seconds=None).to_json()
