"""A ResNet-20 that others trained: what INT8 costs it, beside onnxruntime's own quantiser."""

import warnings

import numpy as np
import pytest

from benchmarks import quantisers
from benchmarks.prepare_data import decode_residuals
from edgekd import checkpoints, models
from edgekd.data import ImageSet
from edgekd.export import parity
from edgekd.export.onnx import export
from edgekd.quantize import CALIBRATORS, PtqConfig, ptq

NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def teacher(shared):
    tensors = checkpoints.load(shared / "checkpoints" / "cifar10_resnet20-12fca82f.th").tensors
    return models.build(models.infer_spec(tensors, input_shape=(3, 32, 32), normalize=NORMALIZATION), tensors)


def logits(path, images: np.ndarray) -> np.ndarray:
    session = parity.session(path.read_bytes(), threads=1)
    batches = (images[i : i + 250].astype(np.float32) / 255 for i in range(0, len(images), 250))
    return np.concatenate([session.run(None, {"input": batch})[0] for batch in batches])


def decibels(exact: np.ndarray, rounded: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - rounded).sum()))


def test_no_worse_than_onnxruntimes_own_quantiser(teacher, cifar_test, tmp_path):
    calibration, held_out = cifar_test.subset(np.arange(100)), cifar_test.subset(np.arange(250, 500))
    export(teacher, tmp_path / "model.onnx", "fp32", calibration.images[:8])
    export(ptq(teacher, calibration, PtqConfig()), tmp_path / "ours.onnx", "u8s8", calibration.images[:8])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxruntime's quantiser: deprecations of its own making
        quantisers.onnxruntime(tmp_path / "model.onnx", tmp_path / "theirs.onnx", calibration.images, "u8s8", "max")
    exact, ours, theirs = (logits(tmp_path / f"{n}.onnx", held_out.images) for n in ("model", "ours", "theirs"))
    assert decibels(exact, ours) > max(decibels(exact, theirs) - 0.5, 25)
    acc, acc_ours, acc_theirs = (float((v.argmax(1) == held_out.labels).mean()) for v in (exact, ours, theirs))
    assert acc_ours >= acc - 0.01
    assert acc_ours >= acc_theirs - 0.01
    assert (tmp_path / "ours.onnx").stat().st_size < 1.1 * (tmp_path / "theirs.onnx").stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("flavour", ["s8", "u8s8"])
def test_int8_costs_at_most_half_a_point_on_all_of_cifar10(
    flavour, calibrator, teacher, complete_test_set, shared, tmp_path
):
    images, labels = decode_residuals(np.load(shared / "data" / "cifar10_train_p0.npz"))
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    train = ImageSet(pixels, labels.astype(np.int64), tuple("0123456789"), "cifar10_train_p0")
    test, twin = complete_test_set("cifar10"), ptq(teacher, train, PtqConfig(flavour=flavour, calibrator=calibrator))
    export(twin, tmp_path / "model.onnx", flavour, test.images[:8])
    accuracy = float((logits(tmp_path / "model.onnx", test.images).argmax(1) == test.labels).mean())
    assert accuracy >= 0.9173 - 0.005
