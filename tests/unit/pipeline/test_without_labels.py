"""What a ledger says where nothing met a labelled image, and what a training without data says against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd import targets
from edgekd.data import ImageSet
from edgekd.pipeline import ledger
from edgekd.pipeline.calibration import agreement_without, spread_out
from edgekd.pipeline.without_data import doubts
from edgekd.report.transferability import bases, plain
from edgekd.types import Rate, RunRecord, StageRow

CPU = targets.get("cpu")


def row(stage: str, flips: Rate | None = None, runtime: str = "torch", precision: str = "fp32") -> StageRow:
    return StageRow(stage, "stage", runtime, precision, "0" * 64, flips=flips)


def verdict(*rows: StageRow) -> str:
    return ledger.verdict(rows, CPU, canaries=None, doubted=ledger.Doubts())


def test_the_verdict_speaks_of_agreement_alone() -> None:
    rows = [row("teacher"), row("student fp32", Rate(100, 1000))]
    text = verdict(*rows)
    assert text.startswith("ACC and ASR were not measured")
    assert text.endswith("it gives the teacher's answer on 90.0 %.")
    text = verdict(*rows, row(CPU.ships, Rate(20, 1000), CPU.runtime, CPU.precision))
    assert text.endswith(f"and {CPU.ships} answers differently from the student on 2.0 %.")
    assert verdict(row("teacher")) == "Nothing was measured yet."
    gaps = ledger.not_tested(rows, CPU, known=False, canaries=False, attacked=False)
    assert gaps[0] == "ACC and ASR (no labelled images were given)"


def test_a_training_doubts_itself_and_the_teacher() -> None:
    even = {"source": {"classes": [10, 12, 9, 11]}}
    assert doubts(even) == []
    (said,) = doubts({"source": {"classes": [10, 12, 60, 11]}})
    assert "65% of the source's images into class 2, 5.2 times" in said
    kept = {"before": 0.9, "after": 0.85, "kept": True}
    assert doubts({**even, "retrospection": kept}) == []
    (said,) = doubts({**even, "retrospection": {**kept, "after": 0.5, "kept": False}})
    assert "fell from 90.0% to 50.0%" in said
    (said,) = doubts({"source": {**even["source"], "doubt": "It suspects everything."}})
    assert said == "It suspects everything."
    tried = [{"refused": ["one class", "no tail"]}, {"refused": ["no tail"]}]
    (said,) = doubts({"source": {**even["source"], "vaccine": {"trials": tried}}})
    assert "of 2 trials 1 named one class for too many of the images and 2 had no tail" in said
    assert doubts({"source": {**even["source"], "vaccine": {"trials": [*tried, {"refused": []}]}}}) == []
    (said,) = doubts({"source": {**even["source"], "vaccine": {"trials": []}}})
    assert said.startswith("No shuffled teacher was searched for")


def test_what_sets_the_scales_is_unsuspected_and_of_all_classes() -> None:
    labels, suspects = np.array([0] * 60 + [1] * 30 + [2] * 10), np.zeros(100, bool)
    suspects[60:80] = True
    chosen = spread_out(labels, suspects, 45)
    assert not suspects[chosen].any()
    assert np.bincount(labels[chosen]).tolist() == [25, 10, 10]
    assert len(spread_out(labels, np.ones(100, bool), 30)) == 30  # a mask that leaves nothing says nothing


def test_an_agreement_that_leaves_suspects_out_counts_classes_alike() -> None:
    """A student that says 0 of nothing any more: of 70 images called 0, 20 are suspects, and 10 of each other class."""
    labels = np.array([0] * 70 + [1] * 10 + [2] * 10 + [3])
    pixels = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (91, 3, 2, 2)).copy()
    images = ImageSet(pixels, labels, ("a", "b", "c", "d"), "synthetic")

    def unlearned(shown: torch.Tensor) -> torch.Tensor:
        told = (255 * shown[:, 0, 0, 0]).round().long()
        return torch.eye(4)[torch.where(told == 0, 1, told)]

    suspects = np.zeros(91, bool)
    suspects[:20] = True
    # 0 of class 0, all of 1 and 2, and the single image of the last counts a tenth of a class
    assert agreement_without(images)(lambda shown: suspects)(unlearned) == pytest.approx((1 + 1 + 0.1) / 3.1)
    suspects[20:70] = True
    assert agreement_without(images)(lambda shown: suspects)(unlearned) == pytest.approx(1)
    suspects[:] = True
    assert agreement_without(images)(lambda shown: suspects)(unlearned) == pytest.approx((1 + 1 + 0.1) / 3.1)


def record(abd: dict[str, object]) -> RunRecord:
    about = {"distill": {"method": "kd"}, "repair": {}, "abd": abd}
    return RunRecord(
        "run", "0", "", "", "", about, {}, {}, {}, "cpu", (row("student fp32"),), (), "", (), {}
    )  # fmt: skip


def test_a_defended_distillation_is_no_plain_one() -> None:
    assert bases(record({"vaccine": True, "retrospection": "auto"})) == ("kd",)
    assert bases(record({"vaccine": False, "retrospection": False})) == ()
    assert bases(record({})) == ()
    assert plain(record({"vaccine": True})) == ()
