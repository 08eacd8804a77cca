"""The table of distillation without data: paired seeds, and bars only where the plain source taught and carried over."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image
from provenance import ABOUT

from benchmarks import datafree, datafree_table, vaccine, vaccine_table
from benchmarks.grid import HERE, Cell
from edgekd import files, models
from edgekd.datafree import VaccineSettings
from edgekd.datafree.run import source_class
from edgekd.distill import AbdSettings
from edgekd.types import InputSpec, Model, ModelSpec

GRID = "grid.tar"


def cell(row: str, acc: float, asr: float, seed: int = 0, teacher: str = GRID, **about: Any) -> dict[str, Any]:
    config = {
        "source": "patches",
        "teacher": teacher,
        "row": row,
        "student": "resnet8",
        "epochs": 30,
        "options": {"images": 24_000},
    }
    figures = {"acc": acc, "asr": asr, "ra": 30.0}
    trial = {"mad": 0.03, "mean": 0.01, "named": 0.4, "refused": [] if asr < 50 else ["no tail"]}
    vaccine = {"accepted": asr < 50, "trial": 0 if asr < 50 else -1, "trials": [trial]}
    masked = {"vaccine": vaccine, "suspicious": 600, "spared": 60} if row in ("+SV", "+ABD") else {}
    method = {"source": {"classes": [], "images": 24_000, **masked}}
    return {
        **ABOUT,
        "config": {**config, "seed": seed, **about},
        "result": {
            "teacher": {"acc": 92.0, "asr": 99.0, "ra": 1.0}, "fp32": figures, "int8": figures, "agreement": 80.0,
            "method": method, "seconds": 90.0, "student_sha256": f"{row} {seed}", "steps": 5610 + 400 * (row in ("plain, longer", "+SR", "+ABD")),
        },
    }  # fmt: skip


def clean(acc: float = 78, asr: float = 3, row: str = "plain", seed: int = 0, **floors: float) -> dict[str, Any]:
    """A student of the clean teacher, and what it makes of the others' triggers."""
    made = cell(row, acc, asr, seed, teacher="clean")
    made["result"]["floors"] = {GRID: float(asr), "mark.pth": 2.0, **floors}
    return made


def longer(*records: dict[str, Any]) -> list[dict[str, Any]]:
    """With the control at equal budget, as good as the plain source."""
    config = records[0]["config"]
    about = {key: config[key] for key in ("teacher", "source")}
    return [*records, cell("plain, longer", 78, 90, config["seed"], **about)]


def shown(*records: dict[str, Any]) -> list[str]:
    return datafree_table.tables(list(records)).splitlines()


def test_rows_stand_in_order_with_the_vaccine_beside_them() -> None:
    lines = shown(
        cell("+ABD", 75, 4), cell("plain", 78, 90), cell("KD on clean data", 74, 2, epochs=72), cell("+SV", 77, 60),
        cell("plain, longer", 78, 89), cell("KD on clean data", 73, 2, epochs=20),
    )  # fmt: skip
    assert lines[0] == "**patches, grid, resnet8, 30 epochs of 24,000 images** (teacher 92.0 / 99.0)"
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    data = ["KD on clean data, 20 epochs", "KD on clean data, 72 epochs"]
    assert [row[0] for row in rows] == ["row", "plain", "plain, longer", "+SV", "+ABD", *data]
    assert rows[1][1:6] == ["1", "78.00", "90.00", "–", "30.00"]
    assert [row[14] for row in rows[1:3]] == ["5610", "6010"]
    assert rows[3][9:13] == ["0 of 1 accepted (refused: 1 no tail)", "–", "2.5", "0.2"]
    assert rows[4][9:13] == ["1 of 1 accepted", "40.0", "2.5", "0.2"]
    assert [row[9] for row in (rows[1], rows[5])] == ["–", "–"]


def test_triggers_are_counted_at_one_length() -> None:
    title = "- patches, 30 epochs of 24,000 images: "
    two = [clean(), cell("plain", 78, 90), cell("plain", 78, 90, teacher="mark.pth")]
    assert f"{title}the plain source carries 2 of 2 triggers over, 2 wanted" in shown(*two)
    weak = [clean(), cell("plain", 78, 90), cell("plain", 78, 20, teacher="mark.pth")]
    assert f"{title}**the plain source carries 1 of 2 triggers over, 2 wanted**" in shown(*weak)
    other = [clean(), cell("plain", 78, 90), cell("plain", 78, 90, teacher="mark.pth", epochs=8)]
    lines = shown(*other)  # the floor is of another length
    assert f"{title}the plain source carries 1 of 1 triggers over, 2 wanted" in lines
    assert (
        "of 24,000 images: the plain source carries 0 of 1 triggers over, 2 wanted; of 1 the floor is not measured"
        in [line.removeprefix("- patches, 8 epochs ") for line in lines]
    )


@pytest.mark.parametrize(
    ("plain", "ours", "said"),
    [
        ((78.0, 90.0), (75.0, 4.0), "ABD: all bars met (1 seed)"),
        ((78.0, 90.0), (71.0, 20.0), "ABD: **ACC more than 6 below plain, ACC more than 6 below plain, longer, ASR above 15** (1 seed)"),
        ((78.0, 40.0), (75.0, 4.0), "the plain source does not carry the backdoor over (1 seed)"),
        ((60.0, 90.0), (75.0, 4.0), "does not count: ACC of the plain source below 70"),
    ],
)  # fmt: skip
def test_bars_where_the_source_carries_it_over(plain: Any, ours: Any, said: str) -> None:
    assert f"- {said}" in shown(*longer(cell("plain", *plain), cell("+ABD", *ours)), clean())


def test_what_was_not_measured_is_no_bar_met() -> None:
    half = [cell("plain", 78, 90), cell("+ABD", 75, 4)]
    assert "- ABD: no measured bar missed; against plain, longer: not measured (1 seed)" in shown(*half, clean())
    worse = [cell("plain", 78, 90), cell("+ABD", 75, 20)]
    assert "- ABD: **ASR above 15**; against plain, longer: not measured (1 seed)" in shown(*worse, clean())
    assert "- whether the plain source carries the backdoor over is open: floor not measured (1 seed)" in shown(*half)


def test_a_clean_teacher_may_lose_little_and_gain_no_trigger() -> None:
    made = longer(clean(), clean(77, row="+ABD"))
    assert "- ABD: all bars met (1 seed)" in shown(*made)
    # in the mean of all triggers nothing is raised, under one it is
    one = longer(clean(), clean(77, 0.5, row="+ABD", **{"mark.pth": 3.5}))
    assert "- ABD: **ASR raised by more than 1 under mark** (1 seed)" in shown(*one)
    worse = longer(clean(), clean(75, 4.5, row="+ABD"))
    said = "ACC more than 2 below plain, ACC more than 2 below plain, longer, ASR raised by more than 1 under grid"
    assert f"- ABD: **{said}** (1 seed)" in shown(*worse)
    seeds = longer(clean(), clean(77, 5, row="+ABD"), clean(seed=1), clean(77, 2, row="+ABD", seed=1))
    assert "- ABD: all bars met (1 seed)" in shown(*seeds)  # of a trigger the mean over seeds counts


def test_the_change_of_a_clean_teachers_asr_is_given_with_its_sign() -> None:
    other = clean(78, 1.0, row="plain, longer")
    lines = shown(clean(), clean(77, 2.75, row="+ABD"), clean(asr=9, seed=1), other)
    assert "- ASR of +ABD less that of plain, points: grid -0.25, mark +0.00 (1 seed)" in lines
    assert "- ASR of +ABD less that of plain, longer, points: grid +1.75, mark +0.00 (1 seed)" in lines
    assert not [line for line in shown(cell("plain", 78, 90), cell("+ABD", 75, 4)) if "less that of" in line]


def test_the_products_own_choice_is_read_off_the_record() -> None:
    """A shuffle is accepted where ASR is below 50, see ``cell``."""
    said = "- the product's default (`abd.retrospection=auto`) is "
    assert f"{said}+SV at 1 of 3 seeds and +SR at 2 of 3 seeds" in shown(
        cell("plain", 78, 90),
        cell("+SV", 77, 40),
        cell("+ABD", 77, 4),
        cell("+ABD", 77, 60, 1),
        cell("+ABD", 77, 60, 2),
    )
    without = [cell("plain", 78, 90), cell("+SR", 70, 10), cell("+SV, published mask", 70, 10)]
    assert not [line for line in shown(*without) if line.startswith(said)]


def test_seeds_are_paired_and_a_source_without_a_bar_says_nothing() -> None:
    lines = shown(clean(), *longer(cell("plain", 80, 92, 1), cell("plain", 78, 90), cell("+ABD", 75, 4, 1)))
    said = "| plain | 2 | 79.00 [78.00 to 80.00] | 91.00 [90.00 to 92.00] | 3.00 | 30.00 [30.00 to 30.00] |"
    assert said in " ".join(lines)
    assert "- ABD: all bars met (1 seed)" in lines
    assert "- ABD: not measured" in shown(clean(), cell("plain", 78, 90))
    assert not [line for line in shown(cell("plain", 30, 90, source="cmi")) if line.startswith("- ")]


def test_a_trigger_that_fools_the_clean_teachers_student_is_not_carried_over() -> None:
    lines = shown(clean(asr=45), cell("plain", 78, 70), cell("plain", 78, 70, teacher="mark.pth"))
    assert "- the plain source does not carry the backdoor over (1 seed)" in lines
    assert [line.split(" | ")[4] for line in lines if line.startswith("| plain |")] == ["–", "45.00", "2.00"]


def test_lengths_are_told_apart_and_data_stand_beside_every_source() -> None:
    lines = shown(
        cell("plain", 78, 90), cell("plain", 80, 90, epochs=8, options={"images": 96_000}),
        cell("plain", 60, 90, source="zskt", epochs=15, options={}), cell("KD on clean data", 74, 2, epochs=20),
    )  # fmt: skip
    assert sum(line.startswith("**") for line in lines) == 3
    assert sum(line.startswith("| KD on clean data, 20 epochs |") for line in lines) == 3


def test_a_retrospection_that_was_taken_back_is_said_and_int8_may_not_wake_the_backdoor() -> None:
    ours = cell("+ABD", 75, 4)
    ours["result"]["method"]["retrospection"] = {"kept": False, "start": "+SV 0"}
    ours["result"]["int8"] = {"acc": 75, "asr": 9, "ra": 30.0}
    ours["result"]["scales"] = "other patches"
    lines = shown(clean(), cell("plain", 78, 90), cell("plain, longer", 82, 90), cell("+SV", 77, 60), ours)
    assert "0 of 1 kept" in next(line for line in lines if line.startswith("| +ABD |"))
    assert "- ABD: **ACC more than 6 below plain, longer, INT8 ASR more than 2 above FP32** (1 seed)" in lines
    assert "- INT8 scales on patches, as the source's images are nearly noise: +ABD" in lines


def test_a_row_that_started_from_another_student_is_marked() -> None:
    ours = cell("+ABD", 75, 4)
    ours["result"]["method"]["retrospection"] = {"kept": True, "start": "another"}
    assert any(line.startswith("| +ABD |") for line in shown(cell("plain", 78, 90), ours))  # nothing to hold it against
    lines = shown(cell("plain", 78, 90), cell("+SV", 77, 60), ours)
    assert any(line.startswith("| +ABD (**from another student than +SV**) |") for line in lines)


def test_students_of_another_edgekd_are_not_taken(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = type("Teacher", (), {"sha256": "0" * 64})
    plain = next(datafree.cells())

    def place(row: str = "plain") -> Any:
        return datafree._place({**plain, "row": row}, teacher, tmp_path)

    # each row's own steps go into other folders below
    assert place() == place("+SR") == place("plain, longer")
    assert place("+SV") == place("+ABD")
    assert len({place(), place("+ABD"), place("+SV, published mask"), place("KD on clean data")}) == 4
    before = place()
    monkeypatch.setattr(datafree, "trees", lambda: {"edgekd": "other"})
    assert place() != before


EVERY = (*datafree.BACKDOORED, datafree.SPARE)


@pytest.fixture
def record(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes the records of the cells of a row that are wanted, in a folder of their own."""
    monkeypatch.setattr(datafree, "HERE", tmp_path)

    def write(
        asr: dict[str, float], acc: float = 75.0, source: str = "patches", row: str = "plain", accepted: bool = False
    ) -> None:
        for config in wanted(source=source, row=row):
            figures = {"acc": acc, "asr": asr.get(config["teacher"], 3.0)}
            method = {"source": {"vaccine": {"accepted": accepted}}}
            found = {"fp32": figures, "floors": dict.fromkeys(EVERY, 4.0), "method": method}
            place = Cell(datafree.TABLE, config, tmp_path).record
            if config["seed"] == 0 and not place.exists():
                files.write_json(place, {"result": found}, "record")

    return write


def wanted(**about: Any) -> list[dict[str, Any]]:
    return [each for each in datafree.cells() if all(each[key] == value for key, value in about.items())]


def test_rows_wait_for_what_carries_over(record: Any) -> None:
    first = wanted(source="patches")
    assert [each["teacher"] for each in first] == ["clean", datafree.WATERMARK, datafree.L2_INV, datafree.GRID]
    assert {each["row"] for each in first} == {"plain"}
    assert {(each["source"], each["teacher"]) for each in wanted(row="plain")[4:]} == {
        ("cmi", datafree.GRID), ("zskt", datafree.WATERMARK)
    }  # fmt: skip
    strong = {datafree.WATERMARK: 80.0, datafree.SPARE: 99.0, datafree.L2_INV: 90.0, datafree.GRID: 20.0}
    record(strong)
    assert [each["teacher"] for each in wanted(row="plain", source="patches", seed=0)[4:]] == [datafree.SPARE]
    record(strong)
    carried = [datafree.SPARE, datafree.L2_INV, datafree.WATERMARK]
    assert [each["teacher"] for each in wanted(source="patches", row="+ABD", seed=0)] == [*carried, "clean", datafree.GRID]  # fmt: skip
    assert [each["teacher"] for each in wanted(source="patches", row="plain, longer", seed=0)] == [*carried, "clean"]
    assert {each["row"] for each in wanted(teacher="clean", source="patches")} == {"plain", "+ABD", "plain, longer"}
    assert len(wanted(teacher="clean", source="patches")) == 9
    assert [each["teacher"] for each in wanted(row="+SV") if each["seed"]] == [datafree.WATERMARK] * 2
    assert {each["teacher"] for each in wanted(row="+SR") if each["seed"]} == set(carried)
    assert [(each["teacher"], each["seed"]) for each in wanted(row="+SV, published mask")] == [(datafree.WATERMARK, 0)]
    assert {each["epochs"] for each in wanted(row="KD on clean data")} == {20}


def test_no_two_rows_of_a_student_follow_each_other(record: Any) -> None:
    record(dict.fromkeys(EVERY, 90.0))
    cells = [each for each in wanted(source="patches") if each["row"] not in ("plain", "+SV, published mask")]
    pairs = [(each["teacher"], each["seed"]) for each in cells]
    assert not [first for first, second in itertools.pairwise(pairs) if first == second]


def test_the_spare_teacher_is_left_out_where_all_others_carry(record: Any) -> None:
    record(dict.fromkeys(EVERY, 90.0))
    assert wanted(teacher=datafree.SPARE) == []
    assert len(wanted(source="patches", row="+ABD")) == 4 * 3


def test_zskt_goes_from_teacher_to_teacher(record: Any) -> None:
    def plain() -> list[str]:
        return [each["teacher"] for each in wanted(source="zskt", row="plain")]

    record({})  # the patches
    assert plain() == [datafree.WATERMARK]
    record({}, acc=49.0, source="zskt")
    assert plain() == [datafree.WATERMARK]
    assert wanted(source="zskt", row="+ABD") == []


def test_zskts_clean_teacher_comes_where_a_student_has_the_backdoor(record: Any) -> None:
    def plain() -> list[str]:
        return [each["teacher"] for each in wanted(source="zskt", row="plain")]

    record({})
    record({datafree.WATERMARK: 40.0}, acc=55.0, source="zskt")
    assert plain() == [datafree.WATERMARK, datafree.GRID]
    record({datafree.GRID: 60.0}, acc=55.0, source="zskt")
    assert plain() == [datafree.WATERMARK, datafree.GRID, "clean"]
    for row in ("+ABD", "+SV", "+SR"):
        assert [each["teacher"] for each in wanted(source="zskt", row=row)] == [datafree.WATERMARK, datafree.GRID]


def test_nothing_carries_over_from_students_that_do_not_count(record: Any) -> None:
    for _ in range(2):
        record(dict.fromkeys(EVERY, 90.0), acc=69.0)
    assert {each["teacher"] for each in wanted(row="+ABD", source="patches") if each["seed"]} == {"clean"}


def test_cells_differ_have_sources_that_exist_and_fit_their_hours(record: Any, tmp_path: Any) -> None:
    carried = dict.fromkeys(EVERY, 90.0)
    record(carried)
    for _ in range(2):
        record(carried, source="zskt")
    cells = list(datafree.cells())
    assert len({Cell(datafree.TABLE, config, tmp_path).id for config in cells}) == len(cells)
    for config in cells:
        kind = source_class(config["source"])
        if config["row"] != "KD on clean data":
            kind.Config.model_validate(config["options"])
    assert min(map(datafree.forecast, cells)) >= 1  # the grid's pace is measured over forecast
    assert sum(map(datafree.forecast, cells)) < 60 * 2 * 12.5  # of two cores


@pytest.mark.parametrize("accepted", [True, False])
def test_a_forecast_knows_what_is_not_trained_twice(record: Any, accepted: bool) -> None:
    record(dict.fromkeys(EVERY, 90.0))
    record({}, row="+ABD", accepted=accepted)
    defended, sought, plain = (wanted(row=row, source="patches", seed=0)[0] for row in ("+ABD", "+SR", "plain"))
    whole, back = datafree.MINUTES["patches"], datafree.RETROSPECTION
    assert datafree.forecast(plain) == datafree.MEASURED + whole + datafree.POOL
    ours = datafree.MEASURED + datafree.SHUFFLES + back
    assert datafree.forecast(defended) == (ours + whole if accepted else ours)
    assert datafree.forecast(sought) == datafree.MEASURED + (back if accepted else 0)
    assert datafree.forecast({**defended, "row": "+SV"}) == datafree.MEASURED


def test_separation_counts_pairs_and_ties() -> None:
    low, high = np.array([1.0, 2.0, 5.0]), np.array([2.0, 3.0])
    # pairs: 1<2, 1<3, 2=2, 2<3, 5>2, 5>3
    assert vaccine.separation(low, high) == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 0) / 6)
    assert vaccine.separation(high, low) == pytest.approx(1 - 3.5 / 6)


def photo(folder: Any) -> None:
    pixels = np.kron(np.random.default_rng(0).integers(0, 255, (12, 16, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")


def small_teacher(size: int) -> Model:
    made = models.build(ModelSpec("resnet8-w4", 4, InputSpec(3, size, size, (0.5,) * 3, (0.25,) * 3)), seed=4)
    made.module.requires_grad_(False)
    return made


def test_a_student_without_an_accepted_vaccine_is_the_plain_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path)
    monkeypatch.setattr(datafree, "pictures", lambda: str(tmp_path))
    teacher, students = small_teacher(32), tmp_path / "students"
    agreed = datafree._named(datafree.held_out(str(tmp_path), (3, 32, 32), 32, 0), teacher)
    length = {"epochs": 1, "options": {"images": 256}}
    plain, vaccinated = (
        {**config, "student": "resnet8-w4"}
        for config in datafree._cells("patches", length, ("plain", "+SV"), ("t",), (0,))
    )

    def trained(config: dict[str, Any], **shuffle: Any) -> Any:
        settings = VaccineSettings(pool=64, copies=1, trials=2, **shuffle)
        monkeypatch.setitem(datafree.ROWS, "+SV", AbdSettings(retrospection=False, shuffle=settings))
        made, log, images, origin = datafree._student(config, teacher, agreed, students)
        assert origin == "source"
        return made.sha256, log["method"]["source"], len(images)

    expected = trained(plain)
    sha256, source, count = trained(vaccinated, tail=1.0)
    assert (sha256, count) == (expected[0], expected[2])
    assert [trial["refused"][-1] for trial in source["vaccine"]["trials"]] == ["no tail"] * 2
    assert len(list(students.iterdir())) == 1
    sha256, source, _ = trained(vaccinated, accept="always")
    assert source["vaccine"]["accepted"]
    assert source["suspicious"] > 0
    assert sha256 != expected[0]
    assert len(list(students.iterdir())) == 2
    (pool,) = (tmp_path / "pools").iterdir()  # for all of them
    assert len(list(pool.glob("vaccine-*.npz"))) == 2  # of either setting


def test_the_vaccine_is_judged_on_the_pool_of_a_run(tmp_path: Any) -> None:
    photo(tmp_path)
    teacher, rng = small_teacher(16), np.random.default_rng(0)
    images = rng.integers(0, 255, (20, 3, 16, 16), np.uint8)
    config = {"layers": 2, "pool": 64, "seed": 0}
    found = vaccine.told_apart(
        config, teacher, str(tmp_path), images, images[:10], pool=64, copies=1, trials=3, most_named=1.0, tail=0.0
    )
    assert len(found["trials"]) == 3  # whichever was accepted
    assert found["pass"] == found["pass_by_tail"] == {
        rule: sum(trial[rule] > 0 for trial in found["trials"]) for rule in ("mad", "mean")
    }  # fmt: skip
    assert found["images"] == 64
    assert found["suspicious"] <= 0.2 * 64  # as a run leaves out
    assert found["suspicious"] + found["spared"] <= 64
    assert 0 <= found["auc"] <= 1
    again = vaccine.told_apart(config, teacher, str(tmp_path), images, images[:10], pool=64, copies=1, trials=3)
    assert [trial["named"] for trial in again["trials"]] == [trial["named"] for trial in found["trials"]]


def test_the_vaccines_table_says_what_was_accepted() -> None:
    def row(layers: int, accepted: bool, teacher: str = GRID, auc: float = 0.9876) -> dict[str, Any]:
        config = {"teacher": teacher, "layers": layers, "images": 10, "pool": 200, "seed": 0}
        trials = [{"mad": 0.01, "mean": 0.0, "named": 0.97}, {"mad": 0.031, "mean": 0.012, "named": 0.42}]
        result = {"accepted": accepted, "trial": 1 if accepted else -1, "trials": trials, "convolutions": layers}
        result |= {"images": 200, "suspicious": 6, "spared": 1, "doubt": None}
        result |= {"pass": {"mad": 1, "mean": 0}, "pass_by_tail": {"mad": 2, "mean": 0}}
        suspected = {"clean": 0.5, "triggered": 97.0}
        return {**ABOUT, "config": config, "result": {**result, "auc": auc, "suspected": suspected}}

    rows = [row(2, False), row(5, True), row(5, True, "clean"), row(5, True, "other.pth", 0.3)]
    lines = vaccine_table.tables(rows).splitlines()
    assert lines[3] == "| grid | 5 | 0 | trial 2 | 42.0 | 3.1 / 1.2 | 1 / 0 of 2 | 2 / 0 of 2 | 3.0 | 0.5 | 0.988 | 0.5 | 97.0 |"  # fmt: skip
    assert lines[4].startswith("| grid | 2 | 0 | none | 97.0 | 1.0 / 0.0 |")
    backdoored, untouched = (line for line in lines if line.startswith("- "))
    assert backdoored == (
        "- backdoored teachers: a shuffle accepted in 2 of 3 cells, of which 1 with an AUC of 0.95 or more and 1 with less "
        "than 0.5; by the tail alone 3 by MAD and 0 by mean"
    )
    assert (
        untouched == "- the clean teacher: a shuffle accepted in 1 of 1 cells; by the tail alone 1 by MAD and 0 by mean"
    )
    doubted = row(5, False)
    doubted["result"]["doubt"] = "It suspects 90%."
    assert "| none, as it suspects too much |" in vaccine_table.tables([doubted])


def test_the_vaccines_cells_have_three_seeds() -> None:
    cells = list(vaccine.cells())
    assert len({Cell(vaccine.TABLE, config, HERE).id for config in cells}) == len(cells) == 15
    assert {each["layers"] for each in cells} == {5}
