"""The tables of KDIGA: what is claimed, against which controls, and when nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from provenance import ABOUT, shown
from small_pair import made_up

from benchmarks import kdiga, kdiga_table, render
from benchmarks.grid import Cell
from edgekd import models
from edgekd.data import ImageSet
from edgekd.distill.kdiga import COLLAPSED
from edgekd.files import write_json
from edgekd.training import Diverged
from edgekd.types import Trigger

Record = dict[str, Any]


DIARY = [{"cosine": 0.2, "student": 0.5, "right": 0.4}, {"cosine": 0.5, "student": 0.25, "right": 0.7}]


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
    own = {"slopes": DIARY, "unseen_slopes": DIARY[0], "halvings": 0, "slope_weight": 2.5} if "KDIGA" in row else {}
    result = {"acc": 70.0, "robust": robust, "survives": "e0", "robustness": table, "seconds": 60.0, **own, **more}
    return {**ABOUT, "config": config, "result": result}


def three(row: str, robust: float, **more: Any) -> list[Record]:
    return [attacked(row, seed, robust + seed, **more) for seed in range(3)]


SHUFFLED = three("KDIGA, shuffled", 15.0)


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
            *three("KDIGA, zero", control, survives="30", acc=71.5),
            *SHUFFLED,
            attacked("PGD-AT", 0, 30.0, passed=False),
        ]
    )
    assert kdiga_table.NAMES in made
    cells = shown(made, name.split(" (")[0])
    assert cells[0] == name
    assert cells[5:12] == [f"{one} [{one} to {one}]" for one in ("0.50", "0.20", "0.50", "50", "2.5", "0")] + ["none"]
    assert shown(made, "PGD-AT")[4:12] == ["3.00", *["–"] * 6, "noise is weaker (1 of 1)"]
    points = f"{20 - control:+.2f}"
    made = made.replace("-0.00", "+0.00")  # what is left of a spread of none
    assert shown(made[made.index("slopes add") :], name.split(" (")[0])[1:] == [
        "KDIGA, zero",
        f"**{points} [{points} to {points}]**",
        "**-1.50 [-1.50 to -1.50]**",
        f"**{points} [{points} to {points}]**",
        "2 / 1, p 1",
        "+0.00 [+0.00 to +0.00]",
        "**+5.00 [+5.00 to +5.00]**",
    ]


def name_of(records: list[Record], row: str = "KDIGA") -> str:
    """How the table of students calls a row."""
    made = kdiga_table.tables(records)
    return next(line[2:].split(" | ")[0] for line in made.splitlines() if line.startswith("| ") and row in line)


def test_what_is_not_settled_is_open() -> None:
    assert name_of(three("KDIGA", 20.0)) == "KDIGA (no control)"
    one = [attacked("KDIGA", 0, 20.0), attacked("KDIGA, zero", 0, 10.0), SHUFFLED[0]]
    assert name_of(one) == "KDIGA, open: 1 seed"
    two = [*three("KDIGA", 20.0)[:2], *three("KDIGA, zero", 10.0)[:2], *SHUFFLED[:2]]
    assert name_of(two) == "KDIGA (2 seeds)"
    near = [attacked("KDIGA", seed, 20 + 2 * seed) for seed in range(3)] + three("KDIGA, zero", 18.0) + SHUFFLED
    assert name_of(near) == "KDIGA, open: the interval holds 2"
    masked = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0, passed=False), *SHUFFLED]
    assert name_of(masked) == "KDIGA, open: a test for masked gradients failed"
    weak = [*three("KDIGA", 2.0), *three("KDIGA, zero", 1.0)]
    assert name_of(weak) == "**gradient penalty** (KDIGA), open: both below 5 %"
    without = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0)]
    assert name_of(without) == "KDIGA, open: not held against shuffled slopes"


def test_shuffled_slopes_have_a_say_in_the_name() -> None:
    sound = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0)]
    assert name_of([*sound, *three("KDIGA, shuffled", 19.5)]) == "**not this image's slopes** (KDIGA)"
    masked = three("KDIGA, zero", 19.0, passed=False)
    settled = [*three("KDIGA", 20.0), *masked, *three("KDIGA, shuffled", 19.5)]
    assert name_of(settled) == "**not this image's slopes** (KDIGA)", "one settled control settles it"


def test_one_test_that_fails_at_one_seed_of_three_is_told_and_voids_nothing() -> None:
    once = [attacked("KDIGA", 0, 20.0, passed=False), *three("KDIGA", 20.0)[1:]]
    others = [*three("KDIGA, zero", 10.0), *SHUFFLED]
    made = kdiga_table.tables([*once, *others])
    assert shown(made, "KDIGA")[11] == "noise is weaker (1 of 3)"
    twice = [*once[:1], attacked("KDIGA", 1, 21.0, passed=False), *once[2:]]
    assert name_of([*twice, *others]) == "KDIGA, open: a test for masked gradients failed"


def test_gaps_have_the_spread_of_all_rows_that_resist() -> None:
    """Three seeds of one pair leave two degrees of freedom; a third row and a fourth make them six."""
    noisy = [attacked("KDIGA", seed, robust) for seed, robust in enumerate((20.0, 21.0, 25.0))]
    rows = [*noisy, *three("KDIGA, zero", 10.0), *SHUFFLED, *three("PGD-AT", 30.0)]
    gap = shown(kdiga_table.tables(rows)[1:].split("slopes add")[1], "KDIGA")[2]
    figures = np.array([[20, 21, 25], [10, 11, 12], [15, 16, 17], [30, 31, 32]], float)
    left = figures - figures.mean(1, keepdims=True) - figures.mean(0) + figures.mean()
    half = 2.447 * (2 * (left**2).sum() / 6 / 3) ** 0.5
    assert gap == f"**+11.00 [{11 - half:+.2f} to {11 + half:+.2f}]**"
    floor = [attacked("CE", seed, robust) for seed, robust in enumerate((0.0, 3.0, 0.0))]
    assert gap in kdiga_table.tables([*rows, *floor]), "what does not resist has another spread"


def test_a_stronger_zero_of_one_seed_leaves_it_open_and_a_weaker_one_says_nothing() -> None:
    rows = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0), *SHUFFLED]
    assert name_of([*rows, attacked(kdiga_table.THIRD, 0, 9.5)]) == "KDIGA"
    assert name_of([*rows, attacked(kdiga_table.THIRD, 0, 19.0)]) == "**gradient penalty** (KDIGA), open: 1 seed"
    assert name_of([*rows, *three(kdiga_table.THIRD, 19.0)]) == "**gradient penalty** (KDIGA)"


def test_the_summary_has_the_headline_rows_and_the_verdict(tmp_path: Path) -> None:
    rows = [*three("KDIGA", 20.0), *three("KDIGA, zero", 19.0), *three("CE", 0.0), *three("IGDM, attack", 3.0)]
    made = kdiga_table.summary([*rows, *backdoored("KDIGA", 80)])
    assert shown(made, "**gradient penalty** (KDIGA)")[1:] == ["70.00 [70.00 to 70.00]", "21.00 [20.00 to 22.00]"]
    assert shown(made, "CE")[2] == "1.00 [0.00 to 2.00]"
    assert "IGDM" not in made
    assert "_9 records" not in made
    assert "_12 records" in made, "those of this part"
    assert kdiga_table.summary(backdoored("KDIGA", 80)) == ""
    page = "KDIGA:\n\n<!-- table:kdiga_summary -->\n<!-- /table:kdiga_summary -->\n"
    assert "_No record yet._" in render.rendered(page, tmp_path)
    for number, record in enumerate(rows):
        write_json(tmp_path / f"benchmarks/results/kdiga/{number}.json", record, "record")
    assert shown(render.rendered(page, tmp_path), "**gradient penalty** (KDIGA)")[2] == "21.00 [20.00 to 22.00]"


def test_the_control_is_the_most_robust_of_those_with_the_rows_seeds_that_did_not_collapse() -> None:
    records = [
        *three("KDIGA", 20.0),
        *three("KDIGA, zero", 10.0),
        *three("KDIGA, zero, a third", 12.0),
        *three("KDIGA, zero, three times", 25.0, acc=29.0),
        *three("KDIGA, paper's slopes, zero", 11.5, halvings=1)[:1],
        *SHUFFLED,
    ]
    made = kdiga_table.tables(records).replace("-0.00", "+0.00")
    found = shown(made[made.index("slopes add") :], "KDIGA")
    assert found[1:5] == [
        "KDIGA, zero, a third",
        "**+8.00 [+8.00 to +8.00]**",
        "+0.00 [+0.00 to +0.00]",
        "**+10.00 [+10.00 to +10.00]**",
    ]
    assert shown(made, "KDIGA, zero, three times, **collapsed**")[1] == "29.00 [29.00 to 29.00]"
    assert shown(made, "KDIGA, paper's slopes, zero")[10] == "1"


def test_a_penalty_that_costs_accuracy_is_a_control_until_its_slopes_are_gone() -> None:
    strong = three("KDIGA, zero, three times", 25.0, acc=54.5)
    records = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0), *SHUFFLED]
    assert name_of([*records, *strong]) == "**gradient penalty** (KDIGA)"
    for last, collapsed in ((0.024, True), (0.026, False)):
        for right in (0.39, 0.4):
            diary = [*DIARY[:1], {"cosine": 0.1, "student": last, "right": right}]
            gone = three("KDIGA, zero, three times", 25.0, slopes=diary)
            word = ", **collapsed**" if collapsed and right < 0.4 else ""
            assert name_of([*records, *gone], "three times") == f"KDIGA, zero, three times{word}"
    mixed = [*strong[:2], *three("KDIGA, zero, three times", 25.0, acc=10.0)[2:]]
    assert name_of([*records, *mixed], "three times") == "KDIGA, zero, three times, 1 of 3 **collapsed**"
    assert kdiga_table.GONE == COLLAPSED


def test_seeds_that_diverged_are_told_and_counted_nowhere() -> None:
    gone = {"diverged": "Training stopped: the loss term 'slopes' became nan"}
    records = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0), *SHUFFLED, *backdoored("CE", 1)]
    for record in (records[2], attacked("KDIGA, weight 0", 0, 1.0), *backdoored("KD", 1)[:1]):
        records = [*(one for one in records if one is not record), {**record, "result": gone}]
    made = kdiga_table.tables(records)
    assert shown(made, "KDIGA (2 seeds)")[1] == "70.00 [70.00 to 70.00]"
    assert "**Diverged**, and counted nowhere: KDIGA, weight 0 (1 of 1 seeds); KDIGA (1 of 3 seeds)." in made
    assert "**Diverged**, and counted nowhere: KD (1 of 1 seeds)." in made
    none = kdiga_table.tables([{**attacked("KDIGA", 0, 1.0), "result": gone}])
    assert none.startswith("**Diverged**, and counted nowhere: KDIGA (1 of 1 seeds).\n\n")


def backdoored(row: str, asr: float, acc: float = 70.0, untriggered: float = 2.0) -> list[Record]:
    config = {"part": "backdoor", "teacher": "l2", "row": row}
    result = {"acc": acc, "ra": 5.0, "untriggered": untriggered, "teacher": {"asr": 100.0}}
    return [{**ABOUT, "config": {**config, "seed": s}, "result": {**result, "asr": asr + s}} for s in range(3)]


def test_what_backdoored_teachers_hand_on_is_above_ce_and_what_slopes_raise_is_above_zero() -> None:
    rows = [*backdoored("CE", 1), *backdoored("KD", 3), *backdoored("KDIGA", 80), *backdoored("KDIGA, zero", 1)]
    made = kdiga_table.tables([*rows, *backdoored("IGDM, signs", 90, 60.0)])
    assert "**l2** (ASR 100.0 %)" in made
    assert shown(made, "KDIGA")[3:] == [
        "5.00 [5.00 to 5.00]",
        "2.00 [2.00 to 2.00]",
        "+79.00 [+79.00 to +79.00]",
        "**yes**",
        "**+79.00 [+76.52 to +81.48]**",
        "**+79.00 [+79.00 to +79.00]**",
        "**yes**",
    ]
    assert shown(made, "KDIGA, zero")[6:] == ["no", "+0.00 [-2.48 to +2.48]", "–", "no"]
    assert shown(made, "CE")[6:] == ["–", "+0.00 [-2.48 to +2.48]", "–", "–"]
    assert shown(made, "KD")[-1] == "no", "above zero, but not above what it calls the target anyway"
    assert shown(made, "IGDM, signs")[-1] == "**yes**", "poor, but the penalty alone does not raise it"
    alone = shown(kdiga_table.tables(backdoored("KDIGA", 80)), "KDIGA")
    assert alone[6] == "open, without CE"
    assert alone[8:] == ["not measured", "open, without zero"]
    one = [backdoored(row, asr)[0] for row, asr in (("KDIGA", 80), ("KDIGA, zero", 1))]
    assert shown(kdiga_table.tables(one), "KDIGA")[-1] == "open (1 seed)"


def test_a_poor_student_is_void_where_the_penalty_alone_raises_it_too() -> None:
    rows = [*backdoored("KD", 3), *backdoored("KDIGA", 80, 60.0), *backdoored("KDIGA, zero", 40, 60.0)]
    made = kdiga_table.tables(rows)
    assert {shown(made, row)[-1] for row in ("KDIGA", "KDIGA, zero")} == {
        "void: ACC 10.0 below KD, and zero is raised too"
    }


def test_the_teacher_is_first_and_what_needs_none_waits_for_none() -> None:
    first, second, *_ = cells = list(kdiga.cells())
    assert (first["row"], first["teacher"], second["part"]) == (kdiga_table.GIVEN, kdiga_table.ROBUST, "backdoor")
    without = next(cell for cell in cells if cell["part"] == "robust" and cell["row"] == "PGD-AT")
    assert kdiga._teacher(without, Path("nowhere")) is None


def test_the_headline_has_three_seeds_and_all_else_has_one() -> None:
    robust = [cell for cell in kdiga.cells() if cell["part"] == "robust"][1:]
    seeds = {row: {cell["seed"] for cell in robust if cell["row"] == row} for row in kdiga.ROWS}
    assert {row for row in seeds if seeds[row] == {0, 1, 2}} == set(kdiga.HEADLINE)
    assert {row for row in seeds if seeds[row] == {0}} == {*kdiga.LADDER, *kdiga.ONCE}
    assert {*kdiga.LADDER, kdiga_table.OWN_ZERO} == set(kdiga_table.ZEROS)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Write what a cell of seed 0 found."""
    monkeypatch.setattr(kdiga, "HERE", tmp_path)

    def write(part: Any, row: str, **result: Any) -> None:
        write_json(Cell(kdiga.TABLE, next(part((row,), (0,))), tmp_path).record, {"result": result}, "record")

    return write


def seeds(part: str, row: str, striped: bool = False) -> list[int]:
    return sorted(
        cell["seed"]
        for cell in kdiga.cells()
        if (cell["part"], cell["row"], cell["teacher"] == kdiga.STRIPES) == (part, row, striped)
    )


def test_stripes_have_all_seeds_where_slopes_bring_them_back(record: Any) -> None:
    def part(rows: Any, at: Any) -> Any:
        return kdiga._backdoor(rows, at, kdiga.STRIPES)

    assert seeds("backdoor", "KDIGA", striped=True) == [0]
    assert any(cell["teacher"] == kdiga.STRIPES for cell in kdiga.may_come())
    record(part, "KDIGA, zero", asr=5.0, untriggered=2.0)
    record(part, "KDIGA, cosine", asr=5.0, untriggered=2.0)
    record(part, "KDIGA", asr=14.0, untriggered=2.0)
    assert seeds("backdoor", "KDIGA", striped=True) == [0], "less than ten points"
    assert not any(cell["teacher"] == kdiga.STRIPES for cell in kdiga.may_come())
    record(part, "KDIGA", asr=30.0, untriggered=2.0)
    assert seeds("backdoor", "KDIGA", striped=True) == seeds("backdoor", "CE", striped=True) == [0, 1, 2]


def test_the_row_that_raises_the_backdoor_most_has_all_seeds(record: Any) -> None:
    part = kdiga._backdoor
    record(part, "KDIGA, zero", asr=5.0, untriggered=2.0)
    record(part, "IGDM, signs", asr=14.0, untriggered=2.0)
    record(part, "KDIGA, paper's slopes", diverged="so")
    assert seeds("backdoor", "IGDM, signs") == [0], "less than ten points"
    record(part, "KDIGA, cosine", asr=22.0, untriggered=10.0)
    assert seeds("backdoor", "KDIGA, cosine") == [0], "ten above zero, but it calls many images so"
    assert not any(cell["teacher"] == kdiga.WHOLE for cell in kdiga.may_come())
    record(part, "KDIGA, cosine", asr=23.0, untriggered=2.0)
    assert (seeds("backdoor", "KDIGA, cosine"), seeds("backdoor", "IGDM, signs")) == ([0, 1, 2], [0])
    assert seeds("backdoor", "KDIGA") == [0, 1, 2]


def test_a_zero_that_beats_kdigas_own_has_all_seeds(record: Any) -> None:
    part = kdiga._robust
    later = [(cell["part"], cell["seed"]) for cell in kdiga.may_come() if cell["teacher"] != kdiga.STRIPES]
    assert later == [("robust", 1), ("robust", 2), ("backdoor", 1), ("backdoor", 2)]
    record(part, "KDIGA, zero", robust=10.0, acc=70.0)
    record(part, kdiga_table.THIRD, robust=12.0, acc=70.0)
    record(part, kdiga_table.THRICE, robust=25.0, acc=20.0)
    record(part, "KDIGA, paper's slopes, zero", diverged="so")
    assert seeds("robust", kdiga_table.THIRD) == [0, 1, 2]
    assert seeds("robust", kdiga_table.THRICE) == [0], "it collapsed"
    assert not any(cell["part"] == "robust" for cell in kdiga.may_come())
    record(part, kdiga_table.THIRD, robust=9.0, acc=70.0)
    assert seeds("robust", kdiga_table.THIRD) == [0]


def test_slopes_are_measured_on_images_that_neither_saw() -> None:
    spec, images = made_up()
    pixels = np.random.default_rng(0).integers(0, 256, images.images.shape, dtype=np.uint8)
    images = ImageSet(pixels, images.labels, images.class_names).subset(np.arange(300))
    one, other = models.build(spec, seed=0), models.build(spec, seed=1)
    same, apart = (kdiga.unseen_slopes(one, model, images) for model in (one, other))
    assert same["cosine"] == pytest.approx(1, abs=1e-5)
    assert (same["distance"], same["student"]) == (pytest.approx(0, abs=1e-6), pytest.approx(same["teacher"]))
    assert abs(apart["cosine"]) < 0.9
    assert apart["distance"] > 0.01 * apart["student"] > 0


def test_a_result_has_its_settings_its_slopes_and_what_diverged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec, images = made_up()
    pixels = np.random.default_rng(0).integers(0, 256, (200, 3, 8, 8), dtype=np.uint8)
    images = ImageSet(pixels, images.labels[:200], images.class_names)
    monkeypatch.setattr(kdiga.prepare_data, "prepare", lambda _: tmp_path)
    monkeypatch.setattr(kdiga.data, "load", lambda _: images)
    monkeypatch.setattr(kdiga, "user_images", lambda _: (images, images))
    monkeypatch.setattr(kdiga, "clean_network", lambda _: models.build(spec))
    monkeypatch.setattr(kdiga, "STUDENT", spec.arch)
    monkeypatch.setattr(kdiga, "BOUND", 1 / 255)
    small = {"images": 200, "epochs": 2, "seed": 0, "tier": "smoke", "attacked": 20}
    trained = {**kdiga.TEACHER, "arch": spec.arch, "epochs": 1}
    config = {"part": "robust", "teacher": kdiga_table.ROBUST, "row": "KDIGA", **small, "trained": trained}
    found = kdiga.run(config, tmp_path / "a" / "work")
    assert (found["settings"]["method"], found["settings"]["options"]) == ("kdiga", kdiga.TRUST)
    assert (found["taught"]["method"], found["taught"]["options"]) == ("pgd-at", kdiga.ATTACK)
    assert [one["epoch"] for one in found["slopes"]] == [1, 2]
    assert -1 <= found["unseen_slopes"]["cosine"] <= 1
    assert found["robustness"]["images"] == 20
    assert found["slope_weight"] > 0
    stranger = "another network's examples are not stronger"
    assert stranger not in {one["check"] for one in found["robustness"]["checks"]}, "they are not there yet"
    kdiga.run({**config, "row": "CE"}, tmp_path / "e" / "work")
    after = kdiga.run({**config, "row": "KD"}, tmp_path / "f" / "work")["robustness"]["checks"][-1]
    assert after["check"] == stranger
    assert " of 20 images that withstood" in after["found"]
    given = kdiga.run({**config, "row": kdiga_table.GIVEN}, tmp_path / "b" / "work")
    assert given["teacher_sha256"] == found["teacher_sha256"], "trained once"
    monkeypatch.setitem(kdiga.ROWS, "KDIGA", ("kdiga", {**kdiga.TRUST, "slope_weight": 1e300}))
    gone = kdiga.run(config, tmp_path / "c" / "work")
    assert gone["diverged"].startswith("Training stopped: ")
    assert gone["teacher_acc"] == found["teacher_acc"]
    assert "acc" not in gone
    monkeypatch.setattr(kdiga, "kept", lambda make: _diverging)
    monkeypatch.setattr(kdiga, "ATTACK", {**kdiga.ATTACK, "attack_steps": 4})
    assert set(kdiga.run(config, tmp_path / "d" / "work")) == {"taught", "diverged"}


def _diverging(*_: Any) -> Any:
    raise Diverged("Training stopped: a term became nan")


def test_a_backdoored_teachers_cell_has_the_students_figures_with_and_without_the_trigger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec, images = made_up()
    images = images.subset(np.arange(80))
    white = {"a": np.zeros((3, 8, 8), np.float32), "b": np.ones((3, 8, 8), np.float32)}
    trigger = Trigger("white", "affine", "known", "all-to-one", 0, params=white)
    monkeypatch.setattr(kdiga.prepare_data, "prepare", lambda _: tmp_path)
    monkeypatch.setattr(kdiga.data, "load", lambda _: images)
    monkeypatch.setattr(kdiga, "user_images", lambda _: (images, images))
    monkeypatch.setattr(kdiga, "teacher_of", lambda *_: (models.build(spec), trigger))
    monkeypatch.setattr(kdiga, "STUDENT", spec.arch)
    config = {**next(kdiga._backdoor(("KD",), (0,))), "images": 80, "epochs": 1}
    found = kdiga.run(config, tmp_path / "a" / "work")
    assert {"acc", "asr", "asr_interval", "ra", "untriggered"} <= set(found) & set(found["teacher"])
    assert (found["settings"]["method"], found["slopes"]) == ("kd", [])
    monkeypatch.setattr("benchmarks.students.figures", None)
    assert kdiga.run(config, tmp_path / "b" / "work")["teacher"] == found["teacher"], "measured once"
    monkeypatch.setattr(kdiga, "_student", _diverging)
    assert set(kdiga.run(config, tmp_path / "c" / "work")) == {"teacher", "teacher_sha256", "diverged"}
