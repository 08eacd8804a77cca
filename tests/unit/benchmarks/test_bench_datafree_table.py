"""The table of distillation without data: paired seeds, and bars only where the plain source taught and carried over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from provenance import ABOUT

from benchmarks import datafree, datafree_table, vaccine, vaccine_table
from benchmarks.grid import HERE, Cell
from edgekd import files, models
from edgekd.data import ImageSet
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
    ours["result"]["scales"] = "held-out patches"
    lines = shown(clean(), cell("plain", 78, 90), cell("plain, longer", 82, 90), cell("+SV", 77, 60), ours)
    assert "0 of 1 kept" in next(line for line in lines if line.startswith("| +ABD |"))
    assert "- ABD: **ACC more than 6 below plain, longer, INT8 ASR more than 2 above FP32** (1 seed)" in lines
    assert "- INT8 scales on held-out patches, as the source's images are nearly noise: +ABD" in lines


def test_a_row_that_started_from_another_student_is_marked() -> None:
    ours = cell("+ABD", 75, 4)
    ours["result"]["method"]["retrospection"] = {"kept": True, "start": "another"}
    assert any(line.startswith("| +ABD |") for line in shown(cell("plain", 78, 90), ours))  # nothing to hold it against
    lines = shown(cell("plain", 78, 90), cell("+SV", 77, 60), ours)
    assert any(line.startswith("| +ABD (**from another student than +SV**) |") for line in lines)


def test_students_of_another_edgekd_are_not_taken(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = type("Teacher", (), {"sha256": "0" * 64})
    plain = next(datafree.cells())
    place = datafree._place(plain, teacher, tmp_path)
    # each row's own steps go into other folders below
    assert place == datafree._place({**plain, "row": "+SR"}, teacher, tmp_path)
    assert place == datafree._place({**plain, "row": "plain, longer"}, teacher, tmp_path)
    assert place != datafree._place({**plain, "row": "+ABD"}, teacher, tmp_path)
    monkeypatch.setattr(datafree, "trees", lambda: {"edgekd": "other"})
    assert place != datafree._place(plain, teacher, tmp_path)


@pytest.fixture
def record(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes the records of the plain cells that are wanted, in a folder of their own."""
    monkeypatch.setattr(datafree, "HERE", tmp_path)

    def write(asr: dict[str, float], agreement: dict[int, float], acc: float = 75.0, source: str = "patches") -> None:
        for config in [each for each in datafree.cells() if (each["source"], each["row"]) == (source, "plain")]:
            figures = {"acc": acc, "asr": asr.get(config["teacher"], 3.0)}
            floors = dict.fromkeys((*datafree.BACKDOORED, datafree.SPARE), 4.0)
            found = {"agreement": agreement.get(config["epochs"], 50.0), "fp32": figures, "floors": floors}
            place = Cell(datafree.TABLE, config, tmp_path).record
            if config["seed"] == 0 and not place.exists():
                files.write_json(place, {"result": found}, "record")

    return write


def wanted(**about: Any) -> list[dict[str, Any]]:
    return [each for each in datafree.cells() if all(each[key] == value for key, value in about.items())]


def test_patches_wait_for_their_length_and_then_for_what_carries_over(record: Any) -> None:
    first = wanted(source="patches")
    assert [each["epochs"] for each in first] == [30, 8, 20]
    assert {each["source"] for each in wanted()} == {"patches", "zskt", "cmi"}
    strong = {datafree.WATERMARK: 80.0, datafree.SPARE: 99.0, datafree.SQUARE: 49.0, datafree.GRID: 20.0}
    record(strong, {8: 70.0})
    taken = wanted(source="patches")[3:]
    assert {each["epochs"] for each in taken} == {8}  # by agreement
    assert [each["teacher"] for each in taken][:2] == ["clean", datafree.WATERMARK]
    assert {each["row"] for each in taken} == {"plain"}
    record(strong, {8: 70.0})
    rows = wanted(source="patches", row="+ABD")
    assert [each["teacher"] for each in rows if each["seed"] == 0] == [datafree.SPARE, datafree.WATERMARK, "clean", datafree.GRID, datafree.SQUARE]  # fmt: skip
    assert {each["teacher"] for each in rows if each["seed"]} == {datafree.SPARE, datafree.WATERMARK, "clean"}
    (equal,) = [each for each in wanted(row="KD on clean data", teacher="clean") if each["epochs"] > 20]
    assert equal["epochs"] == 77  # 8 x 96,000 patches
    assert wanted(source="zskt", row="+ABD") == []  # what its plain student does is not known


def test_the_spare_teacher_is_left_out_where_all_others_carry(record: Any) -> None:
    for _ in range(2):
        record(dict.fromkeys((*datafree.BACKDOORED, datafree.SPARE), 90.0), {})
    assert wanted(teacher=datafree.SPARE, row="+ABD") == []
    assert len(wanted(source="patches", row="+ABD")) == 4 * 3


def test_nothing_carries_over_from_students_that_do_not_count(record: Any) -> None:
    strong = dict.fromkeys((*datafree.BACKDOORED, datafree.SPARE), 90.0)
    for _ in range(2):
        record(strong, {}, acc=69.0)
    assert {each["teacher"] for each in wanted(row="+ABD", source="patches") if each["seed"]} == {"clean"}
    record(strong, {}, acc=55.0, source="zskt")
    assert {each["teacher"] for each in wanted(source="zskt", row="+SV")} == {datafree.WATERMARK, datafree.GRID}


def test_cells_differ_have_sources_that_exist_and_fit_their_hours(record: Any, tmp_path: Any) -> None:
    carried = dict.fromkeys((datafree.WATERMARK, datafree.SPARE), 90.0)
    for _ in range(2):
        record(carried, {20: 70.0})  # the longest
    record(carried, {}, source="zskt")
    cells = list(datafree.cells())
    assert len({Cell(datafree.TABLE, config, tmp_path).id for config in cells}) == len(cells)
    for config in cells:
        kind = source_class(config["source"])
        if config["row"] != "KD on clean data":
            kind.Config.model_validate(config["options"])
    assert min(map(datafree.forecast, cells)) >= 1  # the grid's pace is measured over forecast
    assert sum(map(datafree.forecast, cells)) < 60 * 2 * 12.5  # of two cores


def test_scales_are_set_on_patches_where_the_source_makes_noise() -> None:
    ramp = np.linspace(0, 200, 16, dtype=np.uint8) + np.arange(600, dtype=np.uint8)[:, None, None, None] % 50
    pictures = ImageSet(np.broadcast_to(ramp, (600, 3, 16, 16)).copy(), np.zeros(600, np.int64), ("0",), "patches")
    noise = ImageSet(np.random.default_rng(0).integers(0, 255, (600, 3, 16, 16), np.uint8), pictures.labels, ("0",), "")
    assert datafree._calibration(pictures, noise) == (pictures, "source")
    found, said = datafree._calibration(noise, pictures)
    assert said == "held-out patches"
    assert np.array_equal(found.images, pictures.images[: len(found)])


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
        for config in datafree._cells("patches", length, ("t",), ("plain", "+SV"), (0,))
    )

    def trained(config: dict[str, Any], **shuffle: Any) -> Any:
        settings = VaccineSettings(pool=64, copies=1, trials=2, **shuffle)
        monkeypatch.setitem(datafree.ROWS, "+SV", AbdSettings(retrospection=False, shuffle=settings))
        made, log, images = datafree._student(config, teacher, agreed, students)
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


def test_the_vaccines_cells_have_three_seeds_at_the_default_first() -> None:
    cells = list(vaccine.cells())
    assert len({Cell(vaccine.TABLE, config, HERE).id for config in cells}) == len(cells) == 35
    assert [(each["layers"], each["seed"]) for each in cells[::5]] == [(5, 0), (5, 1), (5, 2), (4, 0), (3, 0), (2, 0), (1, 0)]  # fmt: skip
