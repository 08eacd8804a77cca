"""The tables of KDIGA: what is claimed, against which controls, and when nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from provenance import ABOUT, shown
from small_pair import made_up

from benchmarks import kdiga, kdiga_table
from benchmarks.grid import Cell
from edgekd import models
from edgekd.data import ImageSet
from edgekd.distill.kdiga import COLLAPSED
from edgekd.files import write_json
from edgekd.training import Diverged

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
    own = {"slopes": DIARY, "unseen_slopes": DIARY[0], "halvings": 0} if "KDIGA" in row else {}
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
    assert cells[5:11] == [f"{one} [{one} to {one}]" for one in ("0.50", "0.20", "0.50", "50", "0")] + ["none"]
    assert shown(made, "PGD-AT")[4:11] == ["3.00", *["–"] * 5, "noise is weaker"]
    points = f"{20 - control:+.2f}"
    assert shown(made[made.index("slopes add") :], name.split(" (")[0])[1:] == [
        "KDIGA, zero",
        f"**{points} [{points} to {points}]**",
        "**-1.50 [-1.50 to -1.50]**",
        f"**{points} [{points} to {points}]**",
        "6 / 3",
        "+0.00 [+0.00 to +0.00]",
        "**+5.00 [+5.00 to +5.00]**",
        "not measured",
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


def plain(records: list[Record]) -> list[Record]:
    """The same from a plainly trained teacher."""
    return [{**one, "config": {**one["config"], "teacher": kdiga_table.NATURAL}} for one in records]


def test_shuffled_slopes_and_a_plain_teachers_have_a_say_in_the_name() -> None:
    sound = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0)]
    assert name_of([*sound, *three("KDIGA, shuffled", 19.5)]) == "**not this image's slopes** (KDIGA)"
    both = [*sound, *three("KDIGA, shuffled", 19.5), *plain(three("KDIGA", 19.0))]
    assert name_of(both) == "**not this image's slopes, not a robust teacher's slopes** (KDIGA)"
    assert name_of([*sound, *SHUFFLED, *plain(three("KDIGA", 10.0))]) == "KDIGA"
    assert name_of([*sound, *SHUFFLED, *plain(three("KDIGA", 19.0)[:1])]) == "KDIGA", "it lacks seeds"
    settled = [*three("KDIGA", 20.0), *three("KDIGA, zero", 19.0, passed=False), *three("KDIGA, shuffled", 19.5)]
    assert name_of(settled) == "**not this image's slopes** (KDIGA)", "one settled control settles it"


def test_the_control_is_the_most_robust_of_those_with_the_rows_seeds_that_did_not_collapse() -> None:
    records = [
        *three("KDIGA", 20.0),
        *three("KDIGA, zero", 10.0),
        *three("KDIGA, zero, weight 0.3", 12.0),
        *three("KDIGA, zero, weight 3", 25.0, acc=29.0),
        *three("KDIGA, paper's slopes, zero", 19.5, halvings=1)[:1],
        *SHUFFLED,
    ]
    made = kdiga_table.tables(records)
    found = shown(made[made.index("slopes add") :], "KDIGA")
    assert found[1:5] == [
        "KDIGA, zero, weight 0.3",
        "**+8.00 [+8.00 to +8.00]**",
        "+0.00 [+0.00 to +0.00]",
        "**+10.00 [+10.00 to +10.00]**",
    ]
    assert shown(made, "KDIGA, zero, weight 3, **collapsed**")[1] == "29.00 [29.00 to 29.00]"
    assert shown(made, "KDIGA, paper's slopes, zero")[9] == "1"


def test_a_penalty_that_costs_accuracy_is_a_control_until_its_slopes_are_gone() -> None:
    strong = three("KDIGA, zero, weight 3", 25.0, acc=54.5)
    records = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0), *SHUFFLED]
    assert name_of([*records, *strong]) == "**gradient penalty** (KDIGA)"
    for last, collapsed in ((0.024, True), (0.026, False)):
        for right in (0.39, 0.4):
            diary = [*DIARY[:1], {"cosine": 0.1, "student": last, "right": right}]
            gone = three("KDIGA, zero, weight 3", 25.0, slopes=diary)
            word = ", **collapsed**" if collapsed and right < 0.4 else ""
            assert name_of([*records, *gone], "weight 3") == f"KDIGA, zero, weight 3{word}"
    mixed = [*strong[:2], *three("KDIGA, zero, weight 3", 25.0, acc=10.0)[2:]]
    assert name_of([*records, *mixed], "weight 3") == "KDIGA, zero, weight 3, 1 of 3 **collapsed**"
    assert kdiga_table.GONE == COLLAPSED


def test_seeds_that_diverged_are_told_and_counted_nowhere() -> None:
    gone = {"diverged": "Training stopped: the loss term 'slopes' became nan"}
    records = [*three("KDIGA", 20.0), *three("KDIGA, zero", 10.0), *SHUFFLED, *backdoored("CE", 1)]
    for record in (records[2], attacked("KDIGA, weight 3", 0, 1.0), *backdoored("KD", 1)[:1]):
        records = [*(one for one in records if one is not record), {**record, "result": gone}]
    made = kdiga_table.tables(records)
    assert shown(made, "KDIGA (2 seeds)")[1] == "70.00 [70.00 to 70.00]"
    assert "**Diverged**, and counted nowhere: KDIGA (1 of 3 seeds); KDIGA, weight 3 (1 of 1 seeds)." in made
    assert "**Diverged**, and counted nowhere: KD (1 of 1 seeds)." in made
    none = kdiga_table.tables([{**attacked("KDIGA", 0, 1.0), "result": gone}])
    assert none.startswith("**Diverged**, and counted nowhere: KDIGA (1 of 1 seeds).\n\n")


def test_the_plain_teachers_rows_stand_in_the_same_table_with_their_own_control() -> None:
    records = [
        *three("KDIGA", 20.0),
        *three("KDIGA, zero", 10.0),
        *SHUFFLED,
        attacked("teacher", 0, 25.0, seconds=None),
        *plain([attacked(row, 0, robust) for row, robust in (("KDIGA", 3.0), ("KDIGA, zero", 9.0), ("teacher", 1.0))]),
    ]
    made = kdiga_table.tables(records)
    assert made.count("**Students under attack**") == 1
    assert shown(made, "plain teacher")[2] == "1.00"
    assert shown(made, "teacher")[2::9] == ["25.00", "–"]
    below = made[made.index("slopes add") :]
    assert shown(below, "**gradient penalty** (KDIGA, plain teacher), open: 1 seed")[1:5] == [
        "KDIGA, zero, plain teacher",
        "-6.00 (1 seed)",
        "+0.00 (1 seed)",
        "-6.00 (1 seed)",
    ]
    assert shown(below, "KDIGA")[1] == "KDIGA, zero"
    assert shown(below, "KDIGA")[-1] == "+17.00 (1 seed)"


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


def test_the_headline_has_three_seeds_before_anything_else_of_its_part() -> None:
    robust = [cell for cell in kdiga.cells() if cell["part"] == "robust"][1:]
    count = 3 * len(kdiga.HEADLINE)
    assert {(cell["row"], cell["seed"]) for cell in robust[:count]} == {(row, s) for row in kdiga.HEADLINE for s in range(3)}  # fmt: skip
    for row in kdiga_table.FORMS[2:3] + kdiga_table.ZEROS[2:3] + ("IGDM, attack",):
        assert {cell["seed"] for cell in robust if cell["row"] == row} == {0, 1, 2}


def test_the_row_that_raises_the_backdoor_most_has_all_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kdiga, "HERE", tmp_path)

    def seeds(row: str) -> list[int]:
        chosen = [c for c in kdiga.cells() if c["part"] == "backdoor" and c["teacher"] == kdiga.WHOLE]
        return sorted(cell["seed"] for cell in chosen if cell["row"] == row)

    def record(row: str, **result: Any) -> None:
        config = next(kdiga._backdoor(kdiga.WHOLE, (row,), (0,)))
        write_json(Cell(kdiga.TABLE, config, tmp_path).record, {"result": result}, "record")

    record("KD", asr=5.0)
    record("IGDM, signs", asr=14.0)
    record("KDIGA, paper's slopes", diverged="so")
    assert seeds("IGDM, signs") == [0], "less than ten points"
    record("KDIGA, cosine", asr=15.0)
    assert (seeds("KDIGA, cosine"), seeds("IGDM, signs")) == ([0, 1, 2], [0])
    assert seeds("KDIGA") == [0, 1, 2]


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
    given = kdiga.run({**config, "row": kdiga_table.GIVEN}, tmp_path / "b" / "work")
    assert given["teacher_sha256"] == found["teacher_sha256"], "trained once"
    monkeypatch.setitem(kdiga.ROWS, "KDIGA", ("kdiga", {**kdiga.TRUST, "slope_weight": 1e300}))
    gone = kdiga.run(config, tmp_path / "c" / "work")
    assert gone["diverged"].startswith("Training stopped: ")
    assert gone["teacher_acc"] == found["teacher_acc"]
    assert "acc" not in gone
    monkeypatch.setitem(kdiga.TAUGHT, kdiga_table.ROBUST, ("scratch", {}))
    monkeypatch.setattr(kdiga, "kept", lambda make: _diverging)
    assert set(kdiga.run(config, tmp_path / "d" / "work")) == {"taught", "diverged"}


def _diverging(folder: Path) -> Any:
    raise Diverged("Training stopped: a term became nan")
