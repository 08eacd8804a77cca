"""INT8 of networks trained on CIFAR-10: what each flavour and calibrator costs, beside other people's quantisers.

    python -m benchmarks.int8            the table's cells, records in results/int8/

Two networks are third-party, three are trained here, the two large ones briefly: everything is relative to a network's
own FP32 file. Per file, onnxruntime on the processor measures ACC on all 10,000 test images and which of them are
right, label flips against FP32, and the signal-to-noise ratio (SQNR) of the logits in dB. SQNR is measured once more
on training images that calibrate nothing; it chooses a rival's calibrator, test images never do. The same 512 training
images calibrate everybody. benchmarks/int8_table.py holds the bars.

TensorRT's own arithmetic is not measured. onnxruntime runs its files on the processor and computes in FP32 what they
have in FP16. So fp16 and s8-fp16 show weights and scales rounded to FP16, not FP16 arithmetic
(parity.largest_activation looks for what would overflow).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare_data, quantisers
from benchmarks.attacks import START, STRANGER, clean_network
from benchmarks.grid import Config, Table, main
from benchmarks.students import once, schedule, spec_of
from edgekd import data, distill
from edgekd.data import ImageSet
from edgekd.export.onnx import FLAVOURS, export
from edgekd.files import read_json, write_json
from edgekd.quantize import CALIBRATORS, PtqConfig, ptq
from edgekd.runners.onnx import OnnxRunner
from edgekd.types import InputSpec, Model

INPUT = InputSpec(3, 32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CHECKPOINTS = {"resnet20": STRANGER, "wrn-16-1": START}
EPOCHS = {"resnet8": 30, "mobilenetv2": 6, "resnet18": 6}
EPOCH = {"resnet8": 0.4, "mobilenetv2": 7.0, "resnet18": 8.0}  # minutes of one, one thread
FILES = {"resnet20": 4.5, "wrn-16-1": 3.5, "resnet8": 2.5, "mobilenetv2": 12.0, "resnet18": 25.0}  # minutes of all
SAME = {"calibration": 512, "choice": 1000, "test": 10_000, "seed": 0}
Make = Callable[[Path], None]


def cells() -> Iterator[Config]:
    """The quick ones first."""
    for arch, file in CHECKPOINTS.items():
        yield {"arch": arch, "checkpoint": file, **SAME}
    for arch, epochs in EPOCHS.items():
        yield {"arch": arch, "epochs": epochs, **SAME}


def run(config: Config, folder: Path) -> dict[str, Any]:
    quantisers.fetch()  # where ModelOpt is not to be had, that is said before a training, not after it
    train = data.load(prepare_data.prepare("cifar10_train"))
    test = data.load(prepare_data.prepare("cifar10_test")).subset(range(config["test"]))
    model = network(config, train, folder)
    calibration, choice = drawn(train, config)
    source = folder / "fp32.onnx"
    export(model, source, "fp32", calibration.images[:64])
    exact, exact_choice = _logits(source, test), _logits(source, choice)
    found = {}
    for name, make in _makers(model, source, calibration).items():
        kept = folder / f"{name.replace(' ', '-')}.json"
        if not kept.exists():  # what a kill has left is not made again
            made = kept.with_suffix(".onnx")
            try:
                make(made)
                figures = measured(_logits(made, test), exact, test.labels)
                write_json(kept, {**figures, "sqnr_choice_db": sqnr(_logits(made, choice), exact_choice)})
            except quantisers.NotQuantised as error:
                write_json(kept, {"failed": str(error)})
            made.unlink(missing_ok=True)
        found[name] = read_json(kept)
    return {
        "weights_sha256": model.sha256,
        "default": PtqConfig().calibrator,
        "images": len(test),
        "fp32": measured(exact, exact, test.labels),
        "files": found,
    }


def network(config: Config, images: ImageSet, folder: Path) -> Model:
    """The third party's network, or one trained from scratch and kept in ``folder``; it goes on where it was stopped."""
    if "checkpoint" in config:
        return clean_network(config["checkpoint"])
    spec, train = spec_of(config["arch"], images, INPUT), schedule(config, lr=0.1)
    return once(folder, spec, lambda work: distill.run(None, spec, images, "scratch", {}, train, folder=work)[0])


def drawn(images: ImageSet, config: Config) -> tuple[ImageSet, ImageSet]:
    """The images that calibrate, and others by which a rival's calibrator is chosen."""
    order = np.random.default_rng(config["seed"]).permutation(len(images))
    first, last = config["calibration"], config["calibration"] + config["choice"]
    return images.subset(np.sort(order[:first])), images.subset(np.sort(order[first:last]))


def _makers(model: Model, source: Path, calibration: ImageSet) -> dict[str, Make]:
    """Name -> what writes that file: ours by flavour and calibrator, then the others'."""

    @cache  # both files for TensorRT hold the same integers
    def twin(quantizer: Any, calibrator: Any) -> Model:
        return ptq(model, calibration, PtqConfig(flavour=quantizer, calibrator=calibrator, images=len(calibration)))

    def ours(flavour: str, calibrator: str) -> Make:
        quantizer = FLAVOURS[flavour].quantizer

        def make(path: Path) -> None:
            export(twin(quantizer, calibrator) if quantizer else model, path, flavour, calibration.images[:64])

        return make

    def theirs(flavour: str, calibrator: str) -> Make:
        return lambda path: quantisers.onnxruntime(source, path, calibration.images, flavour, calibrator)

    def nvidia(calibrator: str) -> Make:
        return lambda path: quantisers.modelopt(source, path, calibration.images, calibrator)

    made = {"ours fp16": ours("fp16", "")}
    for flavour in ("s8", "s8-fp16", "u8s8"):
        made.update({f"ours {flavour} {calibrator}": ours(flavour, calibrator) for calibrator in CALIBRATORS})
    for flavour in ("s8", "u8s8"):
        made.update({f"onnxruntime {flavour} {name}": theirs(flavour, name) for name in quantisers.METHODS})
    made.update({f"modelopt s8 {name}": nvidia(name) for name in quantisers.MODELOPT_METHODS})
    return made


def _logits(file: Path, images: ImageSet) -> np.ndarray:
    logits: np.ndarray = OnnxRunner(file.read_bytes(), threads=1)(images.images)
    return logits


def measured(logits: np.ndarray, exact: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """ACC, label flips against ``exact`` and SQNR in dB of logits [N, K]; right: a bit per image, as hexadecimal digits."""
    right = logits.argmax(1) == labels
    return {
        "acc": float(right.mean()),
        "flips": float((logits.argmax(1) != exact.argmax(1)).mean()),
        "sqnr_db": sqnr(logits, exact),
        "right": np.packbits(right).tobytes().hex(),
    }


def sqnr(logits: np.ndarray, exact: np.ndarray) -> float:
    """Of logits [N, K] against ``exact``, in dB."""
    noise = np.square(logits.astype(np.float64) - exact).sum()
    return float(10 * np.log10(np.square(exact.astype(np.float64)).sum() / max(noise, 1e-30)))


def forecast(config: Config) -> float:
    arch = config["arch"]
    return FILES[arch] + EPOCH.get(arch, 0.0) * float(config.get("epochs", 0))


if __name__ == "__main__":
    sys.exit(main(Table("int8", cells, run, forecast, resumable=True)))
