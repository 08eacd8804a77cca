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

    flavour: Literal["s8", "u8s8"] = Field("u8s8", description="s8: symmetric, for TensorRT; u8s8: for onnxruntime")
    calibrator: Literal["max", "percentile", "entropy", "mse"] = Field(
        "mse", description="how scales are set: max, percentile, entropy or mse"
    )
    images: int = Field(512, ge=32, description="training images that set the scales")
    quantize_last: bool = Field(True, description="the layer that makes the logits becomes INT8 too")
    keep_float: tuple[str, ...] = Field((), description="names of layers that stay float")
    reduce_range: bool = Field(
        False, description="seven-bit weights, for x86 processors without VNNI, where eight bits saturate"
    )
    seed: int = Field(0, description="which images set the scales; default: the run's seed")
