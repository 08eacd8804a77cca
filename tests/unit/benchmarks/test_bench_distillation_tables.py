"""The tables of KDIGA, of the baselines and of nasty teachers: what is claimed, against which control, and when nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from provenance import ABOUT

from benchmarks import baselines, baselines_table, kdiga, kdiga_table, nasty, nasty_table
from benchmarks.grid import Table
from edgekd import distill, models
from edgekd.data import ImageSet
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, ModelSpec

Record = dict[str, Any]


def shown(made: str, row: str) -> list[str]:
    return next(line for line in made.splitlines() if line.startswith(f"| {row} ")).strip("| ").split(" | ")


# ---- KDIGA -----------------------------------------------------------------------------------------------------------------


def attacked(row: str, seed: int, robust: float, passed: bool = True) -> Record:
    config = {"part": "robust", "teacher": "robust", "row": row, "seed": seed}
    table = {
        "tier": "standard",
        "bound": 8 / 255,
        "robust": {"hits": 0, "total": 1000},
        "curve": [{"bound": 2 / 255, "left": {"hits": 400, "total": 1000}}],
        "radius": 3 / 255,
        "checks": [{"check": "noise is weaker", "passed": passed, "found": ""}],
    }
    slopes = [{"cosine": 0.5}] if "KDIGA" in row else []
    result = {"acc": 70.0, "teacher_acc": 60.0, "robust": robust, "robustness": table, "slopes": slopes, "seconds": 60.0}  # fmt: skip
    return {**ABOUT, "config": config, "result": result}


def three(row: str, robust: float) -> list[Record]:
    return [attacked(row, seed, robust + seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("control", "name"),
    [(10.0, "KDIGA"), (18.5, "**gradient penalty** (KDIGA)"), (30.0, "**gradient penalty** (KDIGA)")],
)
def test_kdiga_is_a_gradient_penalty_where_the_teachers_slopes_add_less_than_two_points(
    control: float, name: str
) -> None:
    made = kdiga_table.tables(
        [
            *(*three("KDIGA", 20.0), *three("KDIGA, zero", control), *three("KDIGA, shuffled", 15.0)),
            attacked("PGD-AT", 0, 30.0, False),
        ]
    )
    gap = f"{20 - control:+.2f}"
    cells = shown(made, name.split(" (")[0])
    assert cells[0] == name
    assert cells[3] == f"{gap} [{gap} to {gap}]"
    assert cells[4:8] == ["+5.00 [+5.00 to +5.00]", "40.00 [40.00 to 40.00]", "3.00 [3.00 to 3.00]", "0.50 [0.50 to 0.50]"]  # fmt: skip
    assert shown(made, "PGD-AT")[3:9] == ["–", "–", "40.00", "3.00", "–", "noise is weaker"]


def test_without_its_control_or_seeds_kdiga_is_open() -> None:
    assert "| KDIGA (no control) |" in kdiga_table.tables(three("KDIGA", 20.0))
    others = kdiga_table.tables([attacked("KDIGA, cosine", 0, 20.0), attacked("KDIGA, zero", 0, 10.0)])
    assert "| KDIGA, cosine (no control) |" in others
    assert "| KDIGA, zero |" in others
    given = attacked(kdiga.GIVEN, 0, 25.0)
    given["result"]["seconds"] = None
    assert shown(kdiga_table.tables([given]), "teacher")[2::7] == ["25.00", "–"]
    one = kdiga_table.tables([attacked("KDIGA", 0, 20.0), attacked("KDIGA, zero", 0, 10.0), attacked("CE", 0, 0.0)])
    assert "| KDIGA (1 seed) |" in one


def test_what_backdoored_teachers_hand_on_is_above_ce() -> None:
    records = [
        {
            **ABOUT,
            "config": {"part": "backdoor", "teacher": "l2", "row": row, "seed": seed},
            "result": {"acc": 70.0, "asr": asr + seed, "teacher_asr": 100.0},
        }
        for row, asr in (("CE", 1.0), ("KD", 3.0), ("KDIGA", 80.0))
        for seed in range(3)
    ]
    made = kdiga_table.tables(records)
    assert shown(made, "KDIGA")[-1] == "**yes**"
    assert shown(made, "KD")[-2:] == ["+2.00 [+2.00 to +2.00]", "no"]
    assert shown(kdiga_table.tables(records[6:7]), "KDIGA")[-1] == "open, without CE"


# ---- baselines -------------------------------------------------------------------------------------------------------------


def trained(row: str, seed: int, acc: float) -> Record:
    config = {"scenario": "cifar10", "teacher": "t.pth", "student": "resnet8", "images": 9000, "row": row, "seed": seed}
    result = {"acc": acc, "teacher_acc": 90.0, "cost": {"ratio": 1.5}, "seconds": 120.0}
    return {**ABOUT, "config": config, "result": result}


def test_the_interval_is_students_t_over_paired_seeds() -> None:
    row, other = ({seed: {"acc": acc} for seed, acc in enumerate(accs)} for accs in ((71, 73, 75), (70, 71, 72)))
    found = baselines_table.paired(row, other)
    assert found is not None
    assert (found.mean, found.half) == (2.0, pytest.approx(4.303 / 3**0.5))
    assert not found.apart, "2.00 within 2.48"
    assert str(found) == "+2.00 [-0.48 to +4.48]"
    sure = baselines_table.paired({s: {"acc": 72 + 0.1 * s} for s in range(3)}, {s: {"acc": 70.0} for s in range(3)})
    assert sure is not None
    assert str(sure).startswith("**+2.10 [")
    assert baselines_table.paired(row, {7: {"acc": 1}}) is None


def test_one_seed_claims_nothing_and_rows_stand_in_a_fixed_order() -> None:
    records = [trained("scratch", 0, 60.0), trained("Hinton KD", 0, 65.0), trained("AT", 0, 62.0)]
    made = baselines_table.tables(records)
    assert shown(made, "AT")[1:5] == ["62.00", "-3.00 (1 seed)", "+2.00 (1 seed)", "1.50"]
    assert shown(made, "Hinton KD")[2] == "–"
    assert "**" not in "".join(line for line in made.splitlines() if line.startswith("| "))
    order = [line.split(" | ")[0] for line in made.splitlines() if line.startswith("| ")]
    assert order[2:] == ["| scratch", "| Hinton KD", "| AT"]
    assert "intervals" not in made.replace(baselines_table.READING, "")
    assert shown(baselines_table.tables(records[2:]), "AT")[2] == "not measured"


def test_the_number_of_comparisons_is_stated() -> None:
    records = [trained(row, seed, 60.0 + seed) for row in ("scratch", "Hinton KD", "AT") for seed in (0, 1)]
    assert "The tables have 4 such intervals" in baselines_table.tables(records)
    every = {name for *_, rows in baselines.SCENARIOS.values() for name in rows}
    assert every == set(baselines_table.ORDER)


def test_steps_are_timed_among_all_images() -> None:
    labels = np.arange(1000, dtype=np.int64) % 4
    images = ImageSet(np.zeros((1000, 3, 8, 8), np.uint8), labels, tuple("abcd"), "made up")
    spec = ModelSpec("resnet8-w4", 4, InputSpec(3, 8, 8, (0.5,) * 3, (0.5,) * 3))
    train = TrainConfig(epochs=3, batch_size=16, augment="none")
    log = baselines.timed(baselines.ROWS["CRD"], models.build(spec), spec, images, train)
    assert (log.steps, log.method["negatives"]) == (baselines.TIMED_STEPS, 1000)
    assert baselines.timed(baselines.ROWS["scratch"], models.build(spec), spec, images, train).steps == 6


def test_every_method_that_learns_from_outputs_or_features_has_a_row() -> None:
    left_out = {"robustkd", "robustkd-plus", "finetune", "pgd-at"}
    assert {method for method, _ in baselines.ROWS.values()} == set(distill.METHODS) - left_out


# ---- nasty teachers --------------------------------------------------------------------------------------------------------


def taught(teacher: str, row: str, acc: float, teacher_acc: float = 91.0) -> list[Record]:
    return [
        {
            **ABOUT,
            "config": {"part": "student", "teacher": teacher, "row": row, "seed": seed},
            "result": {"acc": acc + seed, "teacher_acc": teacher_acc, "clean_acc": 91.5},
        }
        for seed in range(3)
    ]


def test_a_method_survives_within_a_point_of_scratch() -> None:
    records = [*taught("twin", "scratch", 65), *taught("twin", "KD", 70), *taught("twin", "AT", 68)]
    records += [*taught("nasty 0.04", "KD", 60), *taught("nasty 0.04", "AT", 64.5), *taught("nasty 0.1", "KD", 60, 80)]
    made = nasty_table.tables(records)
    twin, mild, strong = made.split("\n\n**")[:3]
    assert twin.startswith("**twin**")
    assert shown(mild, "KD")[2:] == ["+10.00 [+10.00 to +10.00]", "-5.00 [-5.00 to -5.00]", "**ruined**"]
    assert shown(mild, "AT")[-1] == "survives"
    assert "void: 11.5 points below the clean network" in strong
    assert nasty_table.survives([]) == "open, without scratch"
    assert nasty_table.survives([-0.5]) == "survives (1 seed)"


def test_the_detector_is_right_of_nasty_ones_alone() -> None:
    def seen(name: str, kind: str, correlation: float, suspicious: bool | None, acc: float = 91.0) -> Record:
        found = {"correlation": correlation, "second": 0.5, "entropy": 0.1, "mass": [0.5, 0.1, 0.1], "suspicious": suspicious}  # fmt: skip
        config = {"part": "detector", "teacher": name, "kind": kind, "seed": 0}
        return {**ABOUT, "config": config, "result": {"teaching": found, "teacher_acc": acc, "clean_acc": 91.5}}

    made = nasty_table.tables(
        [
            seen("a", "clean", 0.7, False),
            seen("b", "nasty", -0.1, True),
            seen("c", "nasty", 0.4, False),
            seen("d", "clean", 0.2, True),
            seen("e", "clean", 0.5, None),
            seen("f", "nasty", -0.2, True, 80.0),
            seen("g", "backdoored", 0.6, False, 80.0),
        ]
    )
    assert [shown(made, name)[-2:] for name in "abcdefg"] == [
        ["nothing suspicious", "yes"],
        ["SUSPICIOUS", "yes"],
        ["nothing suspicious", "**no**"],
        ["SUSPICIOUS", "**no**"],
        ["not judged", "–"],
        ["SUSPICIOUS", "–"],
        ["nothing suspicious", "yes"],
    ]
    assert shown(made, "f")[1] == "nasty, void"
    assert "(3 nasty teachers, 1 of them void, 4 others)" in made


# ---- grids -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [kdiga.TABLE, baselines.TABLE, nasty.TABLE], ids=lambda table: table.name)
def test_every_cell_has_a_forecast_and_one_seed_comes_first(table: Table) -> None:
    cells = list(table.cells())
    assert all(0.3 < table.forecast(cell) < 60 for cell in cells)
    assert cells[0]["seed"] == 0
    assert {cell["seed"] for cell in cells} == {0, 1, 2}


def test_rows_name_methods_and_settings_that_are_there() -> None:
    from edgekd.distill.run import method_class

    every = [kdiga.ROWS, nasty.ROWS, *(rows for *_, rows in baselines.SCENARIOS.values())]
    for rows in every:
        for method, options in rows.values():
            method_class(method).Config.model_validate(options)
    assert set(kdiga_table.CONTROLS) | set(kdiga_table.CONTROLS.values()) <= set(kdiga.ROWS)
