"""INT8 of networks trained on CIFAR-10: what each flavour and calibrator costs, beside other people's quantisers.

    python -m benchmarks.int8            the table's cells, records in results/int8/

ACC on all 10,000 test images by onnxruntime on the processor, label flips against the FP32 file, and the logits' signal-to-noise
ratio (SQNR) in dB. The same 512 training images calibrate everybody. Bars: with the default calibrator our files lose
at most 0.5 points of ACC, and are within 0.1 points and 1 dB of the best of onnxruntime's and ModelOpt's, or better.
TensorRT's own arithmetic is not in it: on the processor its files are carried out as they are written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare_data, quantisers
from benchmarks.grid import Config, Table, main
from edgekd import checkpoints, data, distill, models
from edgekd.data import ImageSet
from edgekd.export.onnx import FLAVOURS, export
from edgekd.files import read_json, write_json
from edgekd.quantize import CALIBRATORS, PtqConfig, ptq
from edgekd.runners.onnx import OnnxRunner
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec

INPUT = InputSpec(3, 32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
EPOCHS = {"resnet8": 30, "resnet20": 30, "wrn-16-1": 30, "mobilenetv2": 15, "resnet18": 15}
MINUTES = {
    "resnet8": 0.4,
    "resnet20": 0.9,
    "wrn-16-1": 0.7,
    "mobilenetv2": 7.0,
    "resnet18": 8.0,
}  # an epoch, one thread
CALIBRATION, DEFAULT = 512, PtqConfig().calibrator
MOST_DROP, POINTS, DECIBELS = 0.005, 0.001, 1.0
Make = Callable[[Path], None]


def cells() -> Iterator[Config]:
    for arch, epochs in EPOCHS.items():
        yield {"arch": arch, "epochs": epochs, "images": 50_000, "test": 10_000, "seed": 0}


def run(config: Config, folder: Path) -> dict[str, Any]:
    train = _first(data.load(prepare_data.prepare("cifar10_train")), config["images"])
    test = _first(data.load(prepare_data.prepare("cifar10_test")), config["test"])
    model = trained(config, train, folder)
    chosen = np.random.default_rng(config["seed"]).permutation(len(train))[:CALIBRATION]
    calibration = train.subset(np.sort(chosen))
    source = folder / "fp32.onnx"
    export(model, source, "fp32", test.images[:64])
    exact = _logits(source, test)
    found = {}
    for name, make in _makers(model, source, calibration, test).items():
        kept = folder / f"{name.replace(' ', '-')}.json"
        if not kept.exists():  # what a kill has left is not made again
            made = kept.with_suffix(".onnx")
            make(made)
            write_json(kept, measured(_logits(made, test), exact, test.labels))
            made.unlink()
        found[name] = read_json(kept)
    acc = float((exact.argmax(1) == test.labels).mean())
    return {"acc_fp32": acc, "files": found, **verdict(found, acc)}


def trained(config: Config, images: ImageSet, folder: Path) -> Model:
    """The network trained from scratch, kept in ``folder``; it goes on where it was stopped."""
    weights = folder / "model.safetensors"
    spec = ModelSpec(config["arch"], 10, INPUT)
    if weights.exists():
        return models.build(spec, checkpoints.load_student(str(weights))[0])
    train = TrainConfig(epochs=config["epochs"], seed=config["seed"])
    model, _ = distill.run(None, spec, images, "scratch", {}, train, folder=folder / "training")
    checkpoints.save(weights, models.weights(model), {"spec": spec.to_json()})
    return model


def _makers(model: Model, source: Path, calibration: ImageSet, test: ImageSet) -> dict[str, Make]:
    """Name -> what writes that file: ours by flavour and calibrator, then the others'."""

    def ours(flavour: str, calibrator: Any) -> Make:
        quantizer: Any = FLAVOURS[flavour].quantizer
        settings = PtqConfig(flavour=quantizer, calibrator=calibrator, images=CALIBRATION) if quantizer else None
        return lambda path: _exported(ptq(model, calibration, settings) if settings else model, path, flavour, test)

    def theirs(flavour: str, calibrator: str) -> Make:
        return lambda path: quantisers.onnxruntime(source, path, calibration.images, flavour, calibrator)

    def nvidia(calibrator: str) -> Make:
        return lambda path: quantisers.modelopt(source, path, calibration.images, calibrator)

    made = {"ours fp16": ours("fp16", "")}
    for flavour in ("s8", "s8-fp16", "u8s8"):
        made.update({f"ours {flavour} {calibrator}": ours(flavour, calibrator) for calibrator in CALIBRATORS})
    for flavour in ("s8", "u8s8"):
        made.update({f"onnxruntime {flavour} {name}": theirs(flavour, name) for name in quantisers.METHODS})
    made.update({f"modelopt s8 {name}": nvidia(name) for name in ("max", "entropy")})
    return made


def _exported(model: Model, path: Path, flavour: str, test: ImageSet) -> None:
    export(model, path, flavour, test.images[:64])


def _first(images: ImageSet, count: int) -> ImageSet:
    return images.subset(np.arange(min(count, len(images))))


def _logits(file: Path, test: ImageSet) -> np.ndarray:
    logits: np.ndarray = OnnxRunner(file.read_bytes(), threads=1)(test.images)
    return logits


def measured(logits: np.ndarray, exact: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ACC, label flips against ``exact`` and SQNR in dB of logits [N, K]."""
    noise = np.square(logits.astype(np.float64) - exact).sum()
    return {
        "acc": float((logits.argmax(1) == labels).mean()),
        "flips": float((logits.argmax(1) != exact.argmax(1)).mean()),
        "sqnr_db": float(10 * np.log10(np.square(exact.astype(np.float64)).sum() / max(noise, 1e-30))),
    }


def verdict(found: dict[str, dict[str, float]], acc: float) -> dict[str, Any]:
    """Per kind of integers: our file with the default calibrator, the best of the others', and whether the bars are met."""
    judged: dict[str, Any] = {}
    for flavour, rivals in (("s8", ("onnxruntime s8", "modelopt s8")), ("u8s8", ("onnxruntime u8s8",))):
        ours = found[f"ours {flavour} {DEFAULT}"]
        others = [value for name, value in found.items() if name.startswith(rivals)]
        best = {key: max(value[key] for value in others) for key in ("acc", "sqnr_db")}
        drop = acc - ours["acc"]
        met = (
            drop <= MOST_DROP and ours["acc"] >= best["acc"] - POINTS and ours["sqnr_db"] >= best["sqnr_db"] - DECIBELS
        )
        judged[flavour] = {"drop": drop, "best_acc": best["acc"], "best_sqnr_db": best["sqnr_db"], "met": bool(met)}
    return {"judged": judged, "met": all(row["met"] for row in judged.values())}


def forecast(config: Config) -> float:
    return MINUTES[config["arch"]] * float(config["epochs"] * config["images"] / 50_000 + 4)


if __name__ == "__main__":
    sys.exit(main(Table("int8", cells, run, forecast, resumable=True)))
