"""The measures of int8.py and the judgements of its table, on figures one can check by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from provenance import ABOUT

from benchmarks import int8, int8_table, quantisers
from edgekd.data import ImageSet
from edgekd.errors import EnvironmentFault

LABELS = np.array([0, 1, 1, 0])
EXACT = np.array([[3.0, 0.0], [0.0, 3.0], [0.0, 3.0], [0.0, 3.0]])
IMAGES = 10_000


def test_a_file_is_measured_against_labels_and_against_the_exact_logits() -> None:
    rough = EXACT.copy()
    rough[1] = [0.3, 0.0]
    found = int8.measured(rough, EXACT, LABELS)
    assert (found["acc"], found["flips"]) == (0.5, 0.25)
    assert found["right"] == "a0"  # the first and the third, padded to eight
    # 36 over 0.09 + 9
    assert found["sqnr_db"] == pytest.approx(10 * np.log10(36 / 9.09))


def file(wrong: int, sqnr: float = 35.0, choice: float = 35.0) -> dict[str, Any]:
    """The first ``wrong`` of the test images are not right."""
    right = np.arange(IMAGES) >= wrong
    bits = np.packbits(right).tobytes().hex()
    return {"acc": float(right.mean()), "flips": 0.01, "sqnr_db": sqnr, "sqnr_choice_db": choice, "right": bits}


def record(ours: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
    """ours: of every flavour; a rival's file as onnxruntime_s8_max=file(...), all of them like 1,000 wrong otherwise."""
    names = ("onnxruntime s8 max", "onnxruntime s8 entropy", "modelopt s8 max", "onnxruntime u8s8 max")
    rivals = {name: others.get(name.replace(" ", "_"), file(1000)) for name in names}
    own = {f"ours {kind} mse": ours for kind in ("s8", "s8-fp16", "u8s8")}
    files = {"ours fp16": file(1000, 60), **own, "ours s8 max": file(1002, 34), **rivals}
    result = {"default": "mse", "images": IMAGES, "fp32": file(1000, 300), "files": files}
    return {"config": {"arch": "resnet8", "epochs": 30}, "result": result, **ABOUT}


def rows(made: dict[str, Any]) -> dict[tuple[str, str], dict[str, str]]:
    """(ours, held against) -> the cells of the judged table by their heading."""
    lines = int8_table.tables([made]).split("\n\n")[0].splitlines()[2:]
    cells = [dict(zip(int8_table.JUDGED, line.strip("| ").split(" | "), strict=True)) for line in lines]
    return {(row["ours"], row["held against"]): row for row in cells}


@pytest.mark.parametrize(
    ("wrong", "met"),
    [(1000, "met"), (1030, "met"), (1050, "met, unsure"), (1051, "**missed**, unsure"), (1090, "**missed**")],
)
def test_half_a_point_may_be_lost_to_fp32_by_every_flavour(wrong: int, met: str) -> None:
    found = rows(record(file(wrong)))
    judged = {ours: row["lost ≤ 0.5"] for (ours, _), row in found.items()}
    assert judged == {"fp16": "met", "s8": met, "s8-fp16": met, "u8s8": met}


@pytest.mark.parametrize(
    ("wrong", "sqnr", "points", "decibels"),
    [
        (1000, 35.0, "met", "met"),
        (1010, 34.0, "met, unsure", "met"),
        (1011, 35.0, "**missed**, unsure", "met"),
        (1100, 35.0, "**missed**", "met"),
        (990, 33.9, "met", "**missed**"),
    ],
)
def test_each_rival_has_a_bar_in_points_and_one_in_decibels(
    wrong: int, sqnr: float, points: str, decibels: str
) -> None:
    found = rows(record(file(wrong, sqnr)))
    assert set(found) == {
        *{(kind, f"{maker} s8 max") for kind in ("s8", "s8-fp16") for maker in ("onnxruntime", "modelopt")},
        *{("fp16", "–"), ("u8s8", "onnxruntime u8s8 max")},
    }
    for (ours, _), row in found.items():
        wanted = ("–", "–") if ours == "fp16" else (points, decibels)
        assert (row["points ≥ −0.1"], row["dB ≥ −1"]) == wanted


def test_a_rivals_calibrator_is_chosen_without_the_test_images() -> None:
    lucky, steady = file(900, sqnr=50, choice=30), file(1000, sqnr=35, choice=31)
    made = record(file(1000), onnxruntime_s8_max=lucky, onnxruntime_s8_entropy=steady)
    row = rows(made)["s8", "onnxruntime s8 entropy"]
    assert (row["points ≥ −0.1"], row["dB ≥ −1"]) == ("met", "met")
    table = int8_table.tables([made])
    assert (
        "- resnet8 (30 epochs), s8: the best of 3 on the test images themselves, not judged: onnxruntime s8 max, -1.00 ["
        in table
    )
    assert "points; onnxruntime s8 max, -15.0 dB" in table


def test_the_interval_is_bonett_and_prices() -> None:
    # right in turn: both, both, the first alone, the second alone, the first alone, none, none, none
    gap = int8_table.paired({"right": "e8"}, {"right": "d0"}, 8)
    assert gap.points == pytest.approx(100 / 8)
    middle, half = 0.1, 1.959964 * ((0.5 - 0.1**2) / 10) ** 0.5  # 3 and 2 of 10 after the two that are added
    assert (gap.low, gap.high) == pytest.approx((100 * (middle - half), 100 * (middle + half)))


def test_a_rival_that_fails_is_not_measured_and_its_bars_are_not_judged() -> None:
    failed = {"failed": "Traceback\nKeyError: 'a|b'\n"}
    made = record(file(1000), modelopt_s8_max=failed)
    row = rows(made)["s8", "modelopt s8"]
    assert row["points ≥ −0.1"] == row["dB ≥ −1"] == "**not judged**"
    table = int8_table.tables([made])
    assert "| modelopt | s8 | max | not measured: KeyError: 'a\\|b' |  |  |  |  |" in table
    assert "Met: lost ≤ 0.5: 4 of 4; points ≥ −0.1: 3 of 5; dB ≥ −1: 3 of 5." in table


def test_the_count_says_how_many_verdicts_are_unsure() -> None:
    table = int8_table.tables([record(file(1050))])
    assert "Met: lost ≤ 0.5: 4 of 4 (3 unsure); points ≥ −0.1: 0 of 5; dB ≥ −1: 5 of 5." in table


def test_every_file_of_every_network_has_a_line_and_rivals_stand_beside_ours_of_their_calibrator() -> None:
    table = int8_table.tables([record(file(1000))])
    assert "| resnet8 (30 epochs) | none | FP32 |  | 90.00 |  |  |  |  |" in table
    assert "| resnet8 (30 epochs) | ours | fp16 |  | 90.00 | 1.00 | 60.0 |  |  |" in table
    assert "| modelopt | s8 | max | 90.00 | 1.00 | 35.0 | -0.02 [" in table
    assert "] | -1.0 |" in table
    third = {**record(file(1000)), "config": {"arch": "resnet20", "checkpoint": "some.pth"}}
    assert "| resnet20 (a third party's) | ours | s8 | mse |" in int8_table.tables([third])


def test_every_flavour_calibrator_and_rival_has_a_cell() -> None:
    names = list(int8._makers(None, None, None))  # type: ignore[arg-type]
    assert len(names) == len(set(names)) == 1 + 3 * 4 + 2 * len(quantisers.METHODS) + len(quantisers.MODELOPT_METHODS)
    for flavour, makers in int8_table.RIVALS.items():
        assert int8_table._ours(flavour, "mse") in names
        assert all(any(name.startswith(maker + " ") for name in names) for maker in makers)


def test_the_quick_networks_come_first_and_every_cell_has_a_forecast() -> None:
    minutes = [int8.forecast(config) for config in int8.cells()]
    assert next(iter(int8.cells()))["arch"] == "resnet20"
    assert minutes.index(max(minutes)) == len(minutes) - 1
    assert min(minutes) > 0


def test_no_image_calibrates_and_chooses() -> None:
    pixels = np.arange(3000, dtype=np.uint16).view(np.uint8).reshape(3000, 1, 1, 2)
    images = ImageSet(pixels, np.zeros(3000, np.int64), ("a", "b"), "made up")
    parts = int8.drawn(images, {"seed": 0, "calibration": 512, "choice": 1000})
    numbers = [{int.from_bytes(image.tobytes(), "little") for image in part.images} for part in parts]
    assert list(map(len, numbers)) == [512, 1000]
    assert not numbers[0] & numbers[1]


def fake(folder: Path, body: str) -> None:
    """A ModelOpt whose quantise() is ``body``."""
    package = folder / "modelopt" / "onnx"
    package.mkdir(parents=True, exist_ok=True)
    start = "import os, pathlib, signal\n\ndef quantize(source, output_path, calibration_data, **others):\n    "
    (package / "quantization.py").write_text(start + body)


def test_a_quantiser_that_fails_says_how_and_one_that_was_killed_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisers, "fetch", lambda: tmp_path)
    source, made, images = tmp_path / "a.onnx", tmp_path / "b.onnx", np.full((1, 3, 4, 4), 51, np.uint8)
    source.write_bytes(b"as it was")
    fake(tmp_path, "raise KeyError('this file')")
    with pytest.raises(quantisers.NotQuantised, match="KeyError: 'this file'"):
        quantisers.modelopt(source, made, images, "max")
    fake(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(EnvironmentFault, match="signal 9"):
        quantisers.modelopt(source, made, images, "max")
    fake(tmp_path, "pathlib.Path(output_path).write_text(str(calibration_data.max())); os.truncate(source, 0)")
    quantisers.modelopt(source, made, images, "max")
    assert made.read_text() == "0.2"
    assert source.read_bytes() == b"as it was"  # ModelOpt writes over what it is given
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "modelopt"]
