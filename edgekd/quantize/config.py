"""How a network is quantised; nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GuardConfig(_Frozen):
    """When INT8 is accurate enough, and how many layers may go back to float for it; judged on validation images."""

    max_drop: float = Field(
        0.005,
        ge=0,
        le=1,
        description="validation accuracy that INT8 may cost, as a share; --max-acc-drop if that is lower",
    )
    most_float: int = Field(3, ge=0, description="layers that may stay float to meet max_drop")


def _off(value: object) -> object:
    """YAML reads a bare ``off`` as false."""
    return "off" if value is False else value


class QadConfig(_Frozen):
    """Quantisation-aware distillation: the FP32 student teaches its INT8 twin, after the guard.

    ce_weight is 0 by default: the FP32 student was audited, the labels were not, and poisoned ones would be learned.
    lr is that of the LSQ paper for eight bits (Esser et al. 2020, section 3); its one epoch of ImageNet are 5000 steps.
    """

    when: Annotated[Literal["auto", "off", "always"], BeforeValidator(_off)] = Field(
        "auto",
        description="quantisation-aware distillation; auto: if the guard's float layers are not enough; off; always: the "
        "better of both ships",
    )
    kind: Literal["lsq", "ste"] = Field("lsq", description="what learns; lsq: scales too; ste: weights only")
    steps: int = Field(1000, ge=1, le=10_000_000, description="steps of training")
    batch_size: int = Field(64, ge=2, le=65_536, description="images per step")
    lr: float = Field(0.001, gt=0, description="peak learning rate; it falls along a cosine")
    temperature: float = Field(4.0, gt=0, description="softens the logits of student and teacher")
    ce_weight: float = Field(0.0, ge=0, description="weight of the images' own labels beside the FP32 student's logits")


def named_qad(value: Any) -> Any:
    """``quantize.qad=off`` for ``quantize.qad.when=off``."""
    return {"when": value} if isinstance(value, (str, bool)) else value


class PtqConfig(BaseModel):
    """How a network is quantised; ``guard`` and ``qad`` come in where the calibrated twin is not accurate enough.

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
    images: int = Field(512, ge=32, description="number of training images that set the scales")
    quantize_last: bool = Field(True, description="quantise the last layer, which makes the logits, too")
    keep_float: tuple[str, ...] = Field((), description="names of layers that stay float")
    reduce_range: bool = Field(
        False, description="use seven-bit weights, for x86 processors without VNNI, where eight bits saturate"
    )
    seed: int = Field(0, description="seed that picks the images that set the scales; default: the run's seed")
    guard: GuardConfig = GuardConfig()
    qad: Annotated[QadConfig, BeforeValidator(named_qad)] = QadConfig()
