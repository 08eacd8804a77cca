"""The tables of KDIGA and of the baselines: what is claimed, against which control, and when nothing is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from provenance import ABOUT, shown

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
from benchmarks.paired import paired, pooled, t, values
from edgekd import distill, models
from edgekd.data import ImageSet
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, ModelSpec, TrainLog

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


# ---- KDIGA -----------------------------------------------------------------------------------------------------------------


def attacked(row: str, seed: int, robust: float, **more: Any) -> Record:
    """robust: percent of eight images, of which the first ones survive where it can be so."""
    config = {"part": "robust", "teacher": kdiga_table.ROBUST, "row": row, "seed": seed}
    table = {
        "tier": "standard",
        "bound": 8 / 255,
        "robust": {"hits": 0, "total": 1000},
        "curve": [{"bound": 2 / 255, "left": {"hits": 400, "total": 1000}}],
        "radius": 3 / 255,
        "checks": [{"check": "noise is weaker", "passed": more.pop("passed", True), "found": ""}],
    }
    is_kdiga = "KDIGA" in row
    own = {"slopes": [{"cosine": 0.5, "student": 0.25}] if is_kdiga else [], "halvings": 0 if is_kdiga else None}
    result = {"acc": 70.0, "robust": robust, "survives": "e0", "robustness": table, "seconds": 60.0, **own, **more}
    return {**ABOUT, "config": config, "result": result}


def three(row: str, robust: float, **more: Any) -> list[Record]:
    return [attacked(row, seed, robust + seed, **more) for seed in range(3)]


@pytest.mark.parametrize(
    ("control", "name"),
    [(10.0, "KDIGA"), (18.5, "**gradient penalty** (KDIGA)"), (30.0, "**gradient penalty** (KDIGA)")],
)
def test_kdiga_is_a_gradient_penalty_where_the_teachers_slopes_add_less_than_two_points(
    control: float, name: str
) -> None:
    made = kdiga_table.tables(
        [
            *three("KDIGA", 20.0),
            *three("KDIGA, zero", control, survives="30"),
            *three("KDIGA, shuffled", 15.0),
            attacked("PGD-AT", 0, 30.0, passed=False),
        ]
    )
    assert kdiga_table.NAMES in made
    cells = shown(made, name.split(" (")[0])
    assert cells[0] == name
    assert cells[5:9] == ["0.50 [0.50 to 0.50]", "0.25 [0.25 to 0.25]", "0 [0 to 0]", "none"]
    assert shown(made, "PGD-AT")[4:9] == ["3.00", "–", "–", "–", "noise is weaker"]
    points = f"{20 - control:+.2f}"
    assert shown(made[made.index("slopes add") :], name.split(" (")[0])[1:] == [
        "KDIGA, zero",
        f"**{points} [{points} to {points}]**",
        "6 / 3",
        "+0.00 [+0.00 to +0.00]",
        "**+5.00 [+5.00 to +5.00]**",
    ]


def name_of(records: list[Record], row: str = "KDIGA") -> str:
    """How the table of students calls a row."""
    made = kdiga_table.tables(records)
    return next(line[2:].split(" | ")[0] for line in made.splitlines() if line.startswith("| ") and row in line)


def test_what_is_not_settled_is_open() -> None:
    assert name_of(three("KDIGA", 20.0)) == "KDIGA (no control)"
    one = [attacked("KDIGA", 0, 20.0), attacked("KDIGA, zero", 0, 10.0)]
    assert name_of(one) == "KDIGA, open: 1 seed"
    near = [attacked("KDIGA", seed, 20 + 2 * seed) for seed in range(3)] + three("KDIGA, zero", 18.0)
    assert name_of(near) == "KDIGA, open: the interval holds 2"
    masked = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0, passed=False)]
    assert name_of(masked) == "KDIGA, open: a test for masked gradients failed"
    weak = [*three("KDIGA", 2.0), *three("KDIGA, zero", 1.0)]
    assert name_of(weak) == "**gradient penalty** (KDIGA), open: both below 5 %"


def test_the_control_is_the_most_robust_that_did_not_collapse() -> None:
    records = [
        *three("KDIGA", 20.0),
        *three("KDIGA, zero", 10.0),
        *three("KDIGA, zero, weight 0.3", 12.0),
        *three("KDIGA, zero, weight 3", 25.0, acc=40.0),
        *three("KDIGA, paper's slopes, zero", 11.0, halvings=1),
        *three("KDIGA, weight 0", 1.0),
    ]
    made = kdiga_table.tables(records)
    assert shown(made[made.index("slopes add") :], "KDIGA")[1:3] == [
        "KDIGA, zero, weight 0.3",
        "**+8.00 [+8.00 to +8.00]**",
    ]
    assert shown(made, "KDIGA, zero, weight 3, **collapsed**")[1] == "40.00 [40.00 to 40.00]"
    assert shown(made, "KDIGA, paper's slopes, zero")[7] == "1 [1 to 1]"
    gone = [*three("KDIGA", 20.0, acc=55.0), *three("KDIGA, zero", 10.0), *three("KDIGA, weight 0", 1.0)]
    assert shown(kdiga_table.tables(gone), "KDIGA, **collapsed**")[1] == "55.00 [55.00 to 55.00]"


def test_the_plain_teachers_rows_stand_in_the_same_table_with_their_own_control() -> None:
    records = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0), attacked("teacher", 0, 25.0, seconds=None)]
    for row, robust in (("KDIGA", 3.0), ("KDIGA, zero", 9.0), ("teacher", 1.0)):
        plain = attacked(row, 0, robust)
        plain["config"]["teacher"] = kdiga_table.NATURAL
        records.append(plain)
    made = kdiga_table.tables(records)
    assert made.count("**Students under attack**") == 1
    assert shown(made, "plain teacher")[2] == "1.00"
    assert shown(made, "teacher")[2::7] == ["25.00", "–"]
    below = made[made.index("slopes add") :]
    assert shown(below, "**gradient penalty** (KDIGA, plain teacher), open: 1 seed")[1:3] == [
        "KDIGA, zero, plain teacher",
        "-6.00 (1 seed)",
    ]
    assert shown(below, "KDIGA")[1] == "KDIGA, zero"


def backdoored(row: str, asr: float, acc: float = 70.0) -> list[Record]:
    config = {"part": "backdoor", "teacher": "l2", "row": row}
    result = {"acc": acc, "teacher_asr": 100.0}
    return [{**ABOUT, "config": {**config, "seed": s}, "result": {**result, "asr": asr + s}} for s in range(3)]


def test_what_backdoored_teachers_hand_on_is_above_ce() -> None:
    rows = [*backdoored("CE", 1), *backdoored("KD", 3), *backdoored("KDIGA", 80), *backdoored("KDIGA, zero", 81)]
    made = kdiga_table.tables([*rows, *backdoored("IGDM, signs", 90, 60.0)])
    assert shown(made, "KDIGA")[4:] == [
        "**yes**",
        "**+77.00 [+77.00 to +77.00]**, raised",
        "**-1.00 [-1.00 to -1.00]**",
    ]
    assert shown(made, "KDIGA, zero")[5:] == ["**+78.00 [+78.00 to +78.00]**, raised", "–"]
    assert shown(made, "KD")[3:] == ["+2.00 [+2.00 to +2.00]", "no", "–", "–"]
    assert shown(made, "IGDM, signs")[4:] == ["void: ACC 10.0 below KD", "**+87.00 [+87.00 to +87.00]**", "–"]
    assert shown(kdiga_table.tables(backdoored("KDIGA", 80)), "KDIGA")[4:] == [
        "open, without CE",
        *["not measured"] * 2,
    ]


def test_the_teacher_is_first_and_what_needs_none_waits_for_none() -> None:
    first, second, *_ = cells = list(kdiga.cells())
    assert (first["row"], first["teacher"], second["part"]) == (kdiga_table.GIVEN, kdiga_table.ROBUST, "backdoor")
    without = next(cell for cell in cells if cell["part"] == "robust" and cell["row"] == "PGD-AT")
    nothing = ImageSet(np.zeros((1, 3, 8, 8), np.uint8), np.zeros(1, np.int64), ("a",), "made up")
    assert kdiga._teacher(without, Path("nowhere"), nothing) == (None, None)


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
    every = {name for *_, rows, _ in baselines.SCENARIOS.values() for name in rows}
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
    few = baselines_table.tables([trained("Comparative KD", 0, 50.0, "few calls", report={"teacher_calls": 1000})])
    assert shown(few, "Comparative KD")[4] == "1,000"
    for scenario, (method, others) in baselines_table.MADE_FOR.items():
        assert {method, *others} <= set(baselines.SCENARIOS[scenario].rows)


def test_a_diverged_training_is_said_and_counts_nowhere() -> None:
    gone = trained("AT", 1, 0.0)
    gone["result"] = {"teacher_acc": 90.0, "diverged": "Training stopped: the loss term 'at' became nan"}
    kd = [trained("Hinton KD", seed, 65.0) for seed in (0, 1)]
    made = baselines_table.tables([*kd, trained("AT", 0, 62.0), gone])
    assert shown(made, "AT")[1:3] == ["62.00, 1 of 2 **diverged**", "-3.00 (1 seed)"]
    assert shown(baselines_table.tables([*kd, gone]), "AT")[1:] == ["**diverged**", *["not measured"] * 3]


def test_a_cost_is_quoted_from_an_idle_machine_alone() -> None:
    def cost(row: str, load: float, **ms: float) -> Record:
        config = {"scenario": "cost", "teacher": "t.pth", "student": "resnet8", "batch_size": 128, "row": row}
        return {**ABOUT, "config": config, "result": {"load": load, "ms": {"step": 300.0, "kd": 200.0, **ms}}}

    made = baselines_table.tables([cost("AT", 0.6), cost("SP", 0.4), cost("KDIGA", 0.0, kd_fp32=150.0)])
    assert shown(made, "AT")[1:] == ["not quoted: machine busy"] * 4
    assert shown(made, "SP")[1:] == ["300.0", "200.0", "1.50", "–"]
    assert shown(made, "KDIGA")[4] == "2.00"
    assert {cell["row"] for cell in baselines.costs()} == set(baselines.ROWS) - {"Hinton KD"}


def made_up() -> tuple[ModelSpec, ImageSet]:
    labels = np.arange(1000, dtype=np.int64) % 4
    images = ImageSet(np.zeros((1000, 3, 8, 8), np.uint8), labels, tuple("abcd"), "made up")
    return ModelSpec("resnet8-w4", 4, InputSpec(3, 8, 8, (0.5,) * 3, (0.5,) * 3)), images


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
    monkeypatch.setattr(baselines, "PATIENCE", 0.0)
    spec, images = made_up()
    config = next(cell for cell in baselines.costs() if cell["row"] == "KDIGA")
    found = baselines.cost(config, models.build(spec), spec, images)
    assert order == [("kdiga", "bf16"), ("kd", "bf16"), ("kd", "fp32")] * (baselines.ROUNDS + 1)
    assert found["ms"] == {"step": pytest.approx(550), "kd": pytest.approx(650), "kd_fp32": pytest.approx(750)}
    assert found["load"] >= 0
    assert config["epochs"] * config["each"] >= 30


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


def test_every_method_that_learns_from_outputs_or_features_has_a_row() -> None:
    left_out = {"robustkd", "robustkd-plus", "finetune", "pgd-at"}
    assert {method for method, _ in baselines.ROWS.values()} == set(distill.METHODS) - left_out


def test_the_costliest_methods_come_last_in_all_seeds() -> None:
    rows = [cell["row"] in baselines.LAST for cell in baselines.cells()]
    assert rows == sorted(rows)
    assert sum(rows) == 12


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
    assert set(paper_baselines.ROWS) == set(paper_baselines_table.PUBLISHED)


# ---- grids -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [kdiga.TABLE, baselines.TABLE, nasty.TABLE], ids=lambda table: table.name)
def test_every_cell_has_a_forecast_and_one_seed_comes_first(table: Table) -> None:
    cells = list(table.cells())
    assert all(0.3 < table.forecast(cell) < 60 for cell in cells)
    assert cells[0]["seed"] == 0
    assert {cell["seed"] for cell in cells} == {0, 1, 2}


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
        *kdiga_table.FORMS,
        *kdiga_table.ZEROS,
        kdiga_table.NO_SLOPES,
        kdiga_table.SHUFFLED,
        *kdiga_table.ORDER[2:],
    }
    assert named <= set(kdiga.ROWS)
