"""A record as a real run makes it, without running anything."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekd.types import Latency, Rate, RunRecord, StageRow, TriggerScore

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FAMILIES = (
    "patch",
    "corners",
    "checker",
    "blend",
    "noise",
    "sinusoid",
    "warp",
    "colour",
    "squeeze",
    "frame",
    "dct",
    "lines",
)


def png(seed: int, side: int = 32, stamp: bool = False) -> str:
    """A smooth random picture as base64 PNG, with a white square in its corner if asked."""
    noise = np.random.default_rng(seed).random((4, 4, 3))
    pixels = np.asarray(Image.fromarray((255 * noise).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC))
    if stamp:
        pixels = pixels.copy()
        pixels[-4:-1, -4:-1] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def score(
    asr: int, floor: int | None = 176, ra: int = 7300, name: str = "grid 3x3", origin: str = "known"
) -> TriggerScore:
    return TriggerScore(
        name, origin, Rate(asr, 9000), Rate(ra, 9000), Rate(170, 9000), None if floor is None else Rate(floor, 9000)
    )


def latency(p50: float) -> Latency:
    return Latency(1, 600, p50, 1.09 * p50, 1.3 * p50, 1.02 * p50, 0.95 * p50, 2.1 * p50, (p50 * 0.99, p50 * 1.01))


def row(
    stage: str, runtime: str, precision: str, acc: int, triggers: tuple[TriggerScore, ...], **more: Any
) -> StageRow:
    settings: dict[str, Any] = {"kind": "stage", "parameters": 175_994, "macs": 27_300_000, **more}
    sha256 = f"{abs(hash(stage)) % 16:x}" * 64 if "sha256" not in settings else settings.pop("sha256")
    return StageRow(stage, settings.pop("kind"), runtime, precision, sha256, Rate(acc, 10_000), triggers, **settings)


def ledger_rows() -> tuple[StageRow, ...]:
    small = {"parameters": 98_522, "macs": 14_100_000}
    return (
        row("teacher", "torch", "fp32", 8336, (score(8999, ra=1),), size_bytes=1_426_646, sha256="a" * 64),
        row("scratch", "torch", "fp32", 8010, (score(176),), kind="control", seconds=311.0, sha256="b" * 64, **small),
        row("kd", "torch", "fp32", 8220, (score(8120, ra=700),), kind="control", sha256="c" * 64, **small),
        row("overhaul", "torch", "fp32", 8302, (score(7400, ra=1500),), kind="control", sha256="d" * 64, **small),
        row("finetune", "torch", "fp32", 8391, (score(3120, ra=5100),), kind="control", sha256="e" * 64),
        row("student fp32", "torch", "fp32", 8288, (score(171),), flips=Rate(1210, 10_000), sha256="f" * 64, **small),
        row(
            "student int8 simulated",
            "torch",
            "int8",
            8279,
            (score(177),),
            flips=Rate(96, 10_000),
            sha256="1" * 64,
            **small,
        ),
        row(
            "onnx model.onnx",
            "onnxruntime",
            "fp32",
            8288,
            (score(171),),
            flips=Rate(0, 10_000),
            size_bytes=401_822,
            latency=latency(0.612),
            sha256="2" * 64,
        ),
        row(
            "onnx model.u8s8.onnx",
            "onnxruntime",
            "int8",
            8277,
            (score(179),),
            flips=Rate(98, 10_000),
            size_bytes=137_420,
            latency=latency(0.187),
            sha256="3" * 64,
            notes=("p99 is from 600 runs",),
        ),
    )


def battery() -> dict[str, Any]:
    draw = np.random.default_rng(5)
    excess: list[list[float | None]] = (draw.normal(0.004, 0.01, (len(FAMILIES), 10))).round(4).tolist()
    excess[0][0], excess[2][0], excess[6][3] = 0.97, 0.61, None
    flagged = [
        {
            "family": "patch",
            "variant": "white 3x3, bottom right",
            "target": 0,
            "asr": {"hits": 1790, "total": 1800},
            "floor": {"hits": 44, "total": 1800},
        },
        {"family": "checker", "variant": "4x4", "target": 0, "asr": {"hits": 1140, "total": 1800}, "floor": None},
    ]
    return {
        "families": list(FAMILIES),
        "class_names": list(CLASSES),
        "targets": list(range(10)),
        "excess": excess,
        "flagged": flagged,
        "variants": 60,
        "images": 2000,
        "seconds": 41.3,
    }


def pictures() -> dict[str, Any]:
    stages = [r.stage for r in ledger_rows()]
    examples = []
    for i, label in enumerate(("frog", "horse", "truck", "cat", "ship", "dog")):
        said = {
            stage: "airplane" if stage in ("teacher", "kd") or (stage == "overhaul" and i != 2) else label
            for stage in stages
        }
        if i == 4:
            said["finetune"] = "truck"
        examples.append(
            {
                "png": png(20 + i, stamp=True),
                "trigger": "grid 3x3",
                "label": label,
                "attacker_label": "airplane",
                "predictions": said,
            }
        )
    shown = {"trigger": "grid 3x3", "clean_png": png(1), "triggered_png": png(1, stamp=True), "difference_png": png(3)}
    return {"triggers": [shown], "examples": examples}


def disagreement() -> dict[str, Any]:
    top = [
        {
            "index": 37 * i + 11,
            "label": CLASSES[(7 * i) % 9 + 1],
            "predicted": "airplane" if i < 30 else CLASSES[i % 10],
            "confidence": round(1 - 0.004 * i, 4),
            "png": png(100 + i, stamp=i < 30),
        }
        for i in range(50)
    ]
    return {"count": 1204, "total": 40_000, "top": top}


def adversarial() -> tuple[dict[str, Any], ...]:
    """A student by its gradients, and its INT8 file, on which a test failed."""
    shared = {"tier": "quick", "norm": "linf", "bound": 8 / 255, "images": 500, "seed": 0}
    pgd = {"steps": 20, "step": 0.25, "restarts": 1, "objective": "cross-entropy"}
    student = {
        "name": "student fp32",
        "clean": {"hits": 430, "total": 500},
        "robust": {"hits": 12, "total": 500},
        "attacks": [
            {"attack": "PGD-20", "settings": pgd, "tried": 430, "broken": 418, "left": {"hits": 12, "total": 500}}
        ],
        "curve": [
            {"bound": 1 / 255, "left": {"hits": 150, "total": 250}},
            {"bound": 8 / 255, "left": {"hits": 6, "total": 250}},
        ],
        "radius": 1.4 / 255,
        "checks": [
            {"check": "noise is weaker", "passed": True, "found": "of 86.0%, noise leaves 85.0%, PGD-20 2.4%"},
            {"check": "local linearity", "passed": None, "found": "0.80 of the loss's rise is not linear"},
        ],
    }
    file = {
        "name": "model.u8s8.onnx",
        "clean": {"hits": 428, "total": 500},
        "robust": {"hits": 140, "total": 500},
        "attacks": [
            {
                "attack": "examples of student fp32, 8 bits",
                "settings": {"from": "student fp32", "bits": 8},
                "tried": 428,
                "broken": 280,
                "left": {"hits": 148, "total": 500},
            },
            {
                "attack": "Square",
                "settings": {"queries": 500, "restarts": 1, "objective": "margin"},
                "tried": 148,
                "broken": 8,
                "left": {"hits": 140, "total": 500},
            },
        ],
        "curve": [],
        "radius": None,
        "disagreement": {"student fp32": {"hits": 150, "total": 500}},
        "checks": [
            {"check": "no more robust than student fp32", "passed": False, "found": "28.0% left, of student fp32 2.4%"}
        ],
    }
    return {**shared, **student}, {**shared, **file}


def training() -> dict[str, Any]:
    logs = {}
    for k, stage in enumerate(("scratch", "kd", "overhaul", "robustkd")):
        history = [
            {
                "epoch": e + 1,
                "lr": 0.1 * (1 + math.cos(math.pi * e / 20)) / 2,
                "loss": (2 + k) * math.exp(-0.12 * e) + 0.2,
                "acc": 0.83 - 0.5 * math.exp(-0.2 * (e + 1)) - 0.01 * (3 - k),
            }
            for e in range(20)
        ]
        logs[stage] = {
            "epochs": 20,
            "steps": 6240,
            "seed": 0,
            "device": "cpu",
            "history": history,
            "seconds": {"data": 9.1, "step": 140.2 + k, "backward": 120.0, "validation": 4.25},
            "resumed_at": 12 if stage == "kd" else None,
        }
    return logs


def onnx() -> tuple[dict[str, Any], ...]:
    shared = {"opset": 18, "top1_agreement": {"hits": 1000, "total": 1000}, "nodes": {"Conv": 15}}
    return (
        {"path": "model.onnx", "flavour": "fp32", "sha256": "2" * 64, "bytes": 401_822, **shared}
        | {"max_abs_logit_difference": 4.1e-6, "float_layers": []},
        {"path": "model.u8s8.onnx", "flavour": "u8s8", "sha256": "3" * 64, "bytes": 137_420, **shared}
        | {"max_abs_logit_difference": 0.0312, "float_layers": ["Normalize: the network's first layer"]},
    )


def record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "name": "wrn16-1-abl",
        "edgekd_version": "0.1.0",
        "commit": "aa9c031d22f1",
        "created_utc": "2026-11-20T10:40:12Z",
        "command": "edgekd compress teachers/cifar10_wrn16-1_abl_grid_t0.tar --target cpu --data cifar10_train.npz",
        "config": {
            "method": "robustkd",
            "seed": 0,
            "profile": "fast",
            "train": {"epochs": 20, "lr": 0.1},
            "controls": ["scratch", "kd"],
        },
        "teacher": {
            "file": "cifar10_wrn16-1_abl_grid_t0.tar",
            "sha256": "a" * 64,
            "format": "torch-legacy",
            "spec": {"arch": "wrn-16-1"},
            "dropped": [],
        },
        "student": {"arch": "resnet14", "parameters": 98_522, "sha256": "f" * 64},
        "data": {"train": {"images": 40_000, "sha256": "7" * 64}, "test": {"images": 10_000, "sha256": "8" * 64}},
        "target": "cpu",
        "rows": ledger_rows(),
        "gates": (
            {"name": "ASR above floor", "unit": "%", "limit": 5.0, "value": 0.03, "passed": True, "why": ""},
            {
                "name": "ACC drop",
                "unit": "points",
                "limit": 0.5,
                "value": 0.59,
                "passed": False,
                "why": "0.59 points is above the limit of 0.5",
            },
            {
                "name": "latency p50",
                "unit": "ms",
                "limit": 2.0,
                "value": None,
                "passed": False,
                "why": "model.qdq.onnx was not measured by tensorrt",
            },
        ),
        "verdict": (
            "The student that ships (model.u8s8.onnx) has ACC 82.8 % (teacher 83.4 %); its worst tested trigger, "
            "grid 3x3, succeeds on 2.0 % (teacher 100.0 %, unattacked control 2.0 %). That is no more than the "
            "control: no evidence of this trigger is left."
        ),
        "not_tested": ("sample-specific and learned triggers", "trigger inversion and statistical detectors", "energy"),
        "environment": {
            "cpu": "Example CPU @ 2.60GHz",
            "cores": 2,
            "torch": "2.13.0",
            "onnxruntime": "1.23.0",
            "numpy": "2.3.4",
        },
        "manifest_sha256": "9" * 64,
        "canaries": battery(),
        "disagreement": disagreement(),
        "training": training(),
        "onnx": onnx(),
        "adversarial": adversarial(),
        "pictures": pictures(),
        "device_report": {
            "level": "smoke",
            "valid": True,
            "invalid_reasons": [],
            "environment": {"machine": "x86_64"},
            "rows": [],
        },
        "warnings": (
            "Normalisation was guessed: none fits best (83.4 % on validation, next best 61.0 %).",
            "Latency was measured at level smoke: good for a look, not for a data sheet.",
        ),
    }
    return RunRecord(**{**fields, **changes})


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RunRecord]:
    """Call it with fields to change; without, the record of a WRN-16-1 teacher with a 3x3 grid trigger."""
    return record
