"""The tables of the baselines, paired differences, and what all grids of methods have in common."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from provenance import ABOUT, shown
from small_pair import made_up

from benchmarks import (
    baselines,
    baselines_table,
    kdiga,
    kdiga_table,
    nasty,
    paper_baselines,
    paper_baselines_table,
)
from benchmarks.grid import Table
from benchmarks.outcomes import kept, said, settings
from benchmarks.paired import acc, crossed, mcnemar, paired, pooled, t, values
from benchmarks.students import once
from edgekd import distill, models
from edgekd.errors import EnvironmentFault
from edgekd.training import Diverged, TrainConfig
from edgekd.types import TrainLog

Record = dict[str, Any]


# ---- paired differences -----------------------------------------------------------------------------------------------------


def test_the_interval_is_students_t_over_paired_seeds() -> None:
    row, other = ({seed: float(acc) for seed, acc in enumerate(accs)} for accs in ((71, 73, 75), (70, 71, 72)))
    found = paired(row, other)
    assert found is not None
    assert (found.mean, found.half) == (2.0, pytest.approx(4.303 / 3**0.5))
    assert found.holds(0), "2.00 within 2.48"
    assert not found.holds(-1)
    assert str(found) == "+2.00 [-0.48 to +4.48]"
    sure = paired({s: 72 + 0.1 * s for s in range(3)}, dict.fromkeys(range(3), 70.0))
    assert str(sure).startswith("**+2.10 [")
    assert paired(row, {7: 1.0}) is None
    one = paired({0: 3.0}, {0: 1.0})
    assert one is not None
    assert (one.half, one.holds(100.0), str(one)) == (None, True, "+2.00 (1 seed)")


def test_a_pooled_spread_is_that_of_all_rows() -> None:
    none = dict.fromkeys(range(3), 0.0)
    rows = [{0: -1.0, 1: 0.0, 2: 1.0}, {0: 1.0, 1: 4.0, 2: 7.0}]  # variances 1 and 9
    common = pooled((row, none) for row in rows)
    assert common is not None
    assert common == (pytest.approx(5**0.5), 4)
    found = paired(rows[1], none, common)
    assert found is not None
    assert found.half == pytest.approx(2.776 * (5 / 3) ** 0.5)
    assert pooled([({0: 1.0}, none)]) is None
    assert t(7) == t(6), "the longer interval between two rows of the list"
    assert values({1: {"acc": 2}, 0: {"diverged": "so"}}) == {1: 2.0}


def test_differences_to_one_row_have_the_spread_that_row_and_seed_leave() -> None:
    """Residuals of a layout of two rows are half the paired differences'; a row that lacks a seed still counts."""
    rows = [{0: 1.0, 1: 2.0, 2: 6.0}, {0: 0.0, 1: 3.0, 2: 4.0}]
    alone = pooled([(rows[0], rows[1])])
    assert alone is not None
    assert crossed(rows) == (pytest.approx(alone.deviation), 2)
    three = [*rows, {0: 2.0, 1: 1.0, 2: 3.0}]
    figures = np.array([list(row.values()) for row in three])
    left = figures - figures.mean(1, keepdims=True) - figures.mean(0) + figures.mean()
    assert crossed(three) == (pytest.approx((2 * (left**2).sum() / 4) ** 0.5), 4)
    assert crossed([{0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.0}, {1: 5.0, 2: 7.0}]) == (pytest.approx(0, abs=1e-9), 1)
    assert crossed([{0: 1.0}, {0: 2.0}, {}]) is None
    assert crossed([]) is None


def test_mcnemar_counts_each_image_once() -> None:
    assert mcnemar([0b111110], [0b000001]) == (5, 1, pytest.approx(2 * 7 / 64))
    assert mcnemar([0b1111], [0b0000]) == (4, 0, pytest.approx(2 / 16))
    assert mcnemar([0b1110] * 3, [0b0001] * 3) == mcnemar([0b1110], [0b0001]), "seeds are no further images"
    assert mcnemar([0b01, 0b01, 0b10], [0b10, 0b10, 0b01]) == (1, 1, 1.0), "by majority"
    assert mcnemar([0b1, 0b0], [0b0, 0b1]) == (0, 0, 1.0)
    assert mcnemar([], []) == (0, 0, 1.0)


def test_an_interval_has_ends_and_without_one_anything_may_be() -> None:
    sure, one = paired({0: 2.0, 1: 4.0}, {0: 1.0, 1: 1.0}), paired({0: 2.0}, {0: 1.0})
    assert sure is not None
    assert one is not None
    assert (sure.low, sure.high) == (pytest.approx(2 - 12.706), pytest.approx(2 + 12.706))
    assert (one.low, one.high) == (-np.inf, np.inf)
    assert acc({0: {"acc": 1.0}, 1: {"diverged": "so"}}) == "1.00, 1 of 2 **diverged**"
    assert acc({1: {"diverged": "so"}}) == "**diverged**"


# ---- baselines -------------------------------------------------------------------------------------------------------------


def trained(row: str, seed: int, acc: float, scenario: str = "cifar10", **more: Any) -> Record:
    config = {"scenario": scenario, "teacher": "t.pth", "student": "resnet8", "images": 9000, "row": row, "seed": seed}
    return {**ABOUT, "config": config, "result": {"acc": acc, "teacher_acc": 90.0, "seconds": 120.0, **more}}


def test_one_seed_claims_nothing_and_rows_stand_in_a_fixed_order() -> None:
    records = [trained("scratch", 0, 60.0), trained("Hinton KD", 0, 65.0), trained("AT", 0, 62.0)]
    made = baselines_table.tables(records)
    assert shown(made, "AT")[1:] == ["62.00", "-3.00 (1 seed)", "+2.00 (1 seed)", "2.0"]
    assert shown(made, "Hinton KD")[2] == "–"
    assert "**" not in "".join(line for line in made.splitlines() if line.startswith("| "))
    order = [line.split(" | ")[0] for line in made.splitlines() if line.startswith("| ")]
    assert order[2:] == ["| scratch", "| Hinton KD", "| AT"]
    assert "intervals" not in made.replace(baselines_table.READING, "")
    assert shown(baselines_table.tables(records[2:]), "AT")[2] == "not measured"


def test_the_number_of_comparisons_is_stated() -> None:
    records = [trained(row, seed, 60.0 + seed) for row in ("scratch", "Hinton KD", "AT") for seed in (0, 1)]
    assert "The tables have 4 such intervals" in baselines_table.tables(records)
    every = {name for scenario in baselines.SCENARIOS.values() for name in scenario.rows}
    assert every == set(baselines_table.ORDER)


def test_a_scenarios_method_stands_beside_its_own_controls() -> None:
    accs = {
        "DiSK": (50, 51),
        "DiSK, not censored": (49, 50),
        "KD, tau 1": (52, 53),
        "scratch": (40, 44),
        "Hinton KD": (45, 45),
    }
    helper = {"report": {"helper": {"correlation": -0.2}}}
    records = [
        trained(row, seed, acc, "small student", **(helper if row == "DiSK" else {}))
        for row, of in accs.items()
        for seed, acc in enumerate(of)
    ]
    made = baselines_table.tables(records)
    assert "\n\nDiSK: to DiSK, not censored +1.00 [" in made
    assert "; to KD, tau 1 -2.00 [" in made
    assert "scratch, twice" not in made
    assert "| helper's correlation | minutes |" in made
    assert shown(made, "DiSK")[4] == "-0.20 [-0.20 to -0.20]"
    assert "The tables have 10 such intervals" in made
    cmkd = {"CMKD, ours": (60, 62), "DIST": (59, 60)}
    made = [trained(row, seed, acc) for row, of in cmkd.items() for seed, acc in enumerate(of)]
    assert "\n\nCMKD, ours: to DIST +1.50 [" in baselines_table.tables(made)
    few = baselines_table.tables(
        [trained("Comparative KD, ours", 0, 50.0, "few calls", report={"teacher_calls": 1000})]
    )
    assert shown(few, "Comparative KD, ours")[4] == "1,000"
    for scenario, (method, others) in baselines_table.MADE_FOR.items():
        assert {method, *others} <= set(baselines.SCENARIOS[scenario].rows)


def test_a_diverged_training_is_said_and_counts_nowhere() -> None:
    gone = trained("AT", 1, 0.0)
    gone["result"] = {"teacher_acc": 90.0, "diverged": "Training stopped: the loss term 'at' became nan"}
    kd = [trained("Hinton KD", seed, 65.0) for seed in (0, 1)]
    made = baselines_table.tables([*kd, trained("AT", 0, 62.0), gone])
    assert shown(made, "AT")[1:3] == ["62.00, 1 of 2 **diverged**", "-3.00 (1 seed)"]
    assert shown(baselines_table.tables([*kd, gone]), "AT")[1:] == ["**diverged**", *["not measured"] * 3]


def test_a_cost_stands_beside_hinton_kds() -> None:
    def cost(row: str, **ms: float) -> Record:
        config = {"scenario": "cost", "teacher": "t.pth", "student": "resnet8", "batch_size": 128, "row": row}
        return {**ABOUT, "config": config, "result": {"ms": {"step": 300.0, "kd": 200.0, **ms}}}

    made = baselines_table.tables([cost("SP"), cost("KDIGA, ours", kd_fp32=150.0)])
    assert shown(made, "SP")[1:] == ["300.0", "200.0", "1.50", "–"]
    assert shown(made, "KDIGA, ours")[4] == "2.00"
    assert {cell["row"] for cell in baselines.costs()} == set(baselines.ROWS) - {"Hinton KD"}


def test_steps_are_timed_among_all_images_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainLog] = []

    def run(*arguments: Any, **more: Any) -> tuple[Any, TrainLog]:
        made, log = distill.run(*arguments, **more)
        seen.append(log)
        return made, log

    monkeypatch.setattr(baselines, "distill", SimpleNamespace(run=run))
    spec, images = made_up()
    train = TrainConfig(epochs=3, batch_size=16, augment="none")
    assert baselines.timed(baselines.ROWS["CRD"], models.build(spec), spec, images, train, 2) > 0
    (log,) = seen
    assert (log.steps, log.method["negatives"]) == (6, 1000)


def test_a_cost_is_measured_in_turns_with_hinton_kd(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, str]] = []

    def timed(row: Any, *rest: Any) -> float:
        order.append((row[0], rest[3].precision))
        return 0.1 * len(order)

    monkeypatch.setattr(baselines, "timed", timed)
    monkeypatch.setattr(baselines.os, "getloadavg", lambda: (0.3, 9.0, 9.0))
    spec, images = made_up()
    config = next(cell for cell in baselines.costs() if cell["row"] == "KDIGA, ours")
    found = baselines.cost(config, models.build(spec), spec, images)
    assert order == [("kdiga", "bf16"), ("kd", "bf16"), ("kd", "fp32")] * (baselines.ROUNDS + 1)
    assert found["ms"] == {"step": pytest.approx(550), "kd": pytest.approx(650), "kd_fp32": pytest.approx(750)}
    assert (found["loads"], found["settings"]["method"]) == ([0.3, 0.3], "kdiga")
    assert config["epochs"] * config["each"] >= 30


@pytest.mark.parametrize("busy", ["before", "meanwhile"])
def test_a_cost_beside_other_work_is_no_record(monkeypatch: pytest.MonkeyPatch, busy: str) -> None:
    steps: list[str] = []
    monkeypatch.setattr(baselines, "timed", lambda *_: float(len(steps) or steps.append("timed") is None))
    monkeypatch.setattr(baselines, "PATIENCE", 0.0)
    monkeypatch.setattr(baselines.os, "getloadavg", lambda: (0.6 if steps or busy == "before" else 0.3, 0.0, 0.0))
    spec, images = made_up()
    with pytest.raises(EnvironmentFault, match=r"busy \(load 0\.6, at most 0\.5\): --retry"):
        baselines.cost(next(baselines.costs()), models.build(spec), spec, images)
    assert steps == ([] if busy == "before" else ["timed"])


def test_a_loss_that_is_not_finite_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec, images = made_up()
    teacher = models.build(spec)
    monkeypatch.setattr(baselines, "_pair", lambda *_: (teacher, spec, images))
    monkeypatch.setattr(baselines.prepare_data, "prepare", lambda _: tmp_path)
    monkeypatch.setattr(baselines.data, "load", lambda _: images)
    monkeypatch.setitem(baselines.SCENARIOS["cifar10"].rows, "AT", ("at", {"beta": 1e300}))
    config = {**next(baselines._cells("cifar10", ["AT"], 0)), "batch_size": 500, "epochs": 1}
    found = baselines.run(config, tmp_path)
    assert found["diverged"].startswith("Training stopped: the loss term ")
    assert str(tmp_path) not in found["diverged"]
    assert "acc" not in found
    assert found["settings"]["options"] == {"beta": 1e300}


def test_every_method_that_learns_from_outputs_or_features_has_a_row() -> None:
    left_out = {"robustkd", "robustkd-plus", "finetune", "pgd-at"}
    assert {method for method, _ in baselines.ROWS.values()} == set(distill.METHODS) - left_out


def test_every_method_of_the_first_pair_is_there_at_one_seed_before_another_begins() -> None:
    cells = list(baselines.cells())
    first = cells[: next(number for number, cell in enumerate(cells) if cell["seed"])]
    assert {cell["row"] for cell in first if cell["scenario"] == "cifar10"} == set(baselines.SCENARIOS["cifar10"].rows)
    rows = [cell["row"] in baselines.LAST for cell in cells[len(first) :]]
    assert rows == sorted(rows)
    assert sum(rows) == 10
    assert {cell["seed"] for cell in cells if cell["row"] in baselines.ONCE} == {0}
    lrs = {(cell["scenario"], cell["lr"]) for cell in cells}
    assert lrs == {(name, 0.05 if name == "few calls, 250" else 0.2) for name in baselines.SCENARIOS}


@pytest.mark.parametrize(("acc", "met"), [(75.0, "yes"), (74.0, "**no**")])
def test_papers_figures_stand_beside_ours(acc: float, met: str) -> None:
    records = [
        {**ABOUT, "config": {"row": row, "seed": seed}, "result": {"acc": of + 0.1 * seed, "seconds": 3600.0}}
        for row, of in (("Hinton KD", acc), ("overhaul, paper", 75.0))
        for seed in range(3)
    ]
    made = paper_baselines_table.tables(records)
    assert shown(made, "Hinton KD")[2:6] == ["74.92", "74.52 to 75.32", met, "–"]
    assert shown(made, "overhaul, paper")[2:5] == ["–", "–", "–"]
    assert paper_baselines_table.DIFFERENT in made
    assert set(paper_baselines.ROWS) == set(paper_baselines_table.PUBLISHED)


# ---- grids -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [kdiga.TABLE, baselines.TABLE, nasty.TABLE], ids=lambda table: table.name)
def test_every_cell_has_a_forecast_and_one_seed_comes_first(table: Table) -> None:
    cells = list(table.cells())
    assert all(0.3 < table.forecast(cell) < 60 for cell in cells)
    assert cells[0]["seed"] == 0
    assert {cell["seed"] for cell in cells} == {0, 1, 2} or table is nasty.TABLE


def test_rows_name_methods_and_settings_that_are_there() -> None:
    from edgekd.distill.run import method_class

    every = [
        kdiga.ROWS,
        nasty.ROWS,
        paper_baselines.ROWS,
        *(scenario.rows for scenario in baselines.SCENARIOS.values()),
    ]
    for rows in every:
        for method, options in rows.values():
            method_class(method).Config.model_validate(options)
    named = {
        *kdiga_table.OWN,
        *kdiga_table.ZEROS,
        kdiga_table.NO_SLOPES,
        kdiga_table.SHUFFLED,
        *kdiga_table.ORDER[1:],
    }
    assert named <= set(kdiga.ROWS)


def test_a_diverged_network_that_cells_share_is_trained_once(tmp_path: Path) -> None:
    tried: list[Path] = []

    def make(folder: Path) -> Any:
        tried.append(folder)
        raise Diverged(f"Training stopped: a term became nan; the checkpoint in {folder} is good.")

    for _ in range(2):
        with pytest.raises(Diverged) as error:
            once(tmp_path / "net", made_up()[0], kept(make))
        assert said(error.value) == "Training stopped: a term became nan"
    assert tried == [tmp_path / "net" / "train"]


def test_a_result_says_its_settings() -> None:
    train = TrainConfig(epochs=3, lr=0.2, device="auto")
    found = settings("kdiga", kdiga.ATTACK, train)
    assert (found["method"], found["options"], found["train"]["lr"]) == ("kdiga", kdiga.ATTACK, 0.2)
    assert TrainConfig(**found["train"], device="auto") == train
    taught = kdiga._taught(next(kdiga.cells()))
    assert taught is not None
    assert (taught["method"], taught["options"]) == ("pgd-at", kdiga.ATTACK)
