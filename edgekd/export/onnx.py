"""ONNX files: one function, one table of flavours; the bytes depend on the network alone.

Input "input" float32 [N, C, H, W] in [0, 1], output "logits" float32 [N, K], free batch size, weights inside. No date,
no path, no trace of the machine: the same network gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxslim
import torch
from torch import nn

from edgekd.errors import EdgekdError, UsageError
from edgekd.export import passes
from edgekd.export.parity import Parity, compare, largest_activation
from edgekd.files import sha256_bytes, write_bytes
from edgekd.types import Model, OnnxFile


@dataclass(frozen=True)
class Flavour:
    """One kind of ONNX file.

    quantizer: flavour of ``quantize.PtqConfig`` whose twin is exported, "" for the float network. tolerance: how far
    the logits may be off, relative to their norm, before the export is taken to be wrong. INT8 has no such limit: a
    rounding that falls to the other side is amplified by the layers behind it; its labels are judged instead, by
    ``doubts``.
    """

    file: str
    precision: str
    quantizer: str = ""
    half: bool = False
    opset: int = 18
    tolerance: float = float("inf")


# Roundings flip a label here and there; where surely more than one in fifty differs, something else is at work.
LEAST_AGREEMENT = 0.98

FLAVOURS = {
    "fp32": Flavour("model.onnx", "fp32", tolerance=1e-3),
    "fp16": Flavour("model.fp16.onnx", "fp16", half=True, tolerance=0.05),
    "s8": Flavour("model.qdq.onnx", "int8", "s8"),
    # strongly typed networks (TensorRT 11) need scales of the type of the data, which opset 19 allows
    "s8-fp16": Flavour("model.qdq.fp16.onnx", "int8", "s8", half=True, opset=19),
    "u8s8": Flavour("model.u8s8.onnx", "int8", "u8s8"),
}


def export(model: Model, path: str | Path, flavour: str, images: np.ndarray) -> OnnxFile:
    """Write ``model`` to ``path`` and hold onnxruntime's logits on ``images`` [N, C, H, W] uint8 against torch's.

    For the INT8 flavours ``model`` is the twin made by ``quantize.ptq`` and the comparison is with that twin. Raises
    UsageError when the flavour and the model do not belong together or the network cannot be exported, EdgekdError when
    the file computes something else than the network.
    """
    if flavour not in FLAVOURS:
        raise UsageError(f"There is no ONNX flavour {flavour!r}; there are {', '.join(FLAVOURS)}.")
    row = FLAVOURS[flavour]
    quantizer = getattr(model.module, "flavour", "")
    if quantizer != row.quantizer:
        made_for = f"quantised for {quantizer!r}" if quantizer else "not quantised"
        needs = f"the {row.quantizer!r} twin that quantize.ptq makes" if row.quantizer else "the float network"
        raise UsageError(f"The flavour {flavour!r} needs {needs}; this model is {made_for}.")
    proto = _trace(model)
    passes.global_pooling(proto)
    passes.integer_weights(proto, np.float16 if row.half else np.float32)
    if row.quantizer == "u8s8":
        passes.integer_biases(proto)
    if row.half:
        passes.to_half(proto)
    passes.finish(proto, row.opset)
    data = _checked(proto)
    if row.half:
        _fits_half(model.module, images)
    parity = compare(model.module, data, images)
    _judge(parity, flavour, row.tolerance)
    write_bytes(path, data, "onnx")
    return OnnxFile(
        path=str(path),
        flavour=flavour,
        sha256=sha256_bytes(data),
        bytes=len(data),
        opset=row.opset,
        max_abs_logit_difference=parity.max_abs_difference,
        top1_agreement=parity.agreement,
        nodes=dict(sorted(Counter(node.op_type for node in proto.graph.node).items())),
        float_layers=tuple(getattr(model.module, "float_layers", ())),
    )


def doubts(files: Iterable[OnnxFile]) -> list[str]:
    """A warning for every INT8 file whose labels are surely not its quantised twin's: one sentence why, one what to do."""
    said = []
    for file in files:
        agreement, name = file.top1_agreement, Path(file.path).name
        if not FLAVOURS[file.flavour].quantizer or agreement.interval()[1] >= LEAST_AGREEMENT:
            continue
        vnni = "On an x86 processor without VNNI (see `edgekd doctor`) set -o quantize.reduce_range=true. "
        way_out = vnni if FLAVOURS[file.flavour].quantizer == "u8s8" else ""
        said.append(
            f"{name}: onnxruntime and the quantised network in torch give the same label on {agreement.hits} of "
            f"{agreement.total} validation images, fewer than {LEAST_AGREEMENT:.0%}. {way_out}"
            "Rely on the figures of the file, not on those of the simulated INT8 student."
        )
    return said


def _trace(model: Model) -> onnx.ModelProto:
    """The network as torch's exporter and onnxslim leave it."""
    module = model.module.eval()
    example = torch.zeros(2, *model.spec.input.shape, device=_device(module))
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=18,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
            assert program is not None
            slim: onnx.ModelProto = onnxslim.slim(program.model_proto)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UsageError(
            f"The network {model.spec.arch} cannot be exported to ONNX: {reason} "
            "Its forward must not branch on values and must take the batch from x.shape[0], as flatten(1) does."
        ) from error
    return slim


def _device(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.parameters()), torch.device("cpu"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's progress lines and the warnings that torch raises about itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # torch's copying of its own tree specifications, and torch's exporter calling its own old names
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _checked(proto: onnx.ModelProto) -> bytes:
    """The bytes, after the ONNX project's own checker with shape and type inference."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EdgekdError(f"The exported graph is not valid ONNX: {error}") from error
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _fits_half(module: nn.Module, images: np.ndarray) -> None:
    largest, limit = largest_activation(module, images), float(np.finfo(np.float16).max)
    if not largest < limit:
        raise EdgekdError(
            f"The network's activations reach {largest:.3g}, but FP16 ends at {limit:.0f}. Leave the FP16 files "
            "out, or check the checkpoint and its normalisation."
        )


def _judge(parity: Parity, flavour: str, tolerance: float) -> None:
    if not np.isfinite(parity.relative_difference):
        raise EdgekdError(
            f"The {flavour} file gives logits that are not finite. Check the checkpoint and its normalisation."
        )
    if parity.relative_difference > tolerance:
        raise EdgekdError(
            f"The {flavour} file does not compute what the network computes: its logits are off by "
            f"{parity.relative_difference:.1%} of their norm (limit {tolerance:.1%}). Nothing was written."
        )
