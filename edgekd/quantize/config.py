"""How a network is quantised; nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PtqConfig(BaseModel):
    """How a network is quantised without training.

    flavour: "s8" (symmetric, for TensorRT) or "u8s8" (for onnxruntime on CPU). images: how many calibrate.
    quantize_last: whether the layer that makes the logits is quantised. keep_float: layers that must stay float.
    reduce_range: seven-bit weights, for x86 processors older than AVX512-VNNI and AVX-VNNI, whose eight-bit
    multiplications saturate with uint8 activations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flavour: Literal["s8", "u8s8"] = "u8s8"
    calibrator: Literal["max", "percentile", "entropy", "mse"] = "mse"
    images: int = Field(512, ge=32)
    quantize_last: bool = True
    keep_float: tuple[str, ...] = ()
    reduce_range: bool = False
    seed: int = 0
