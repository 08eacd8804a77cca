"""The table of nasty teachers: which of them count, who survives them, whom the detector points at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from provenance import ABOUT, shown
from small_pair import made_up

from benchmarks import nasty, nasty_table
from benchmarks.paired import Difference, paired
from edgekd import models
from edgekd.data import ImageSet
from edgekd.types import InputSpec, ModelSpec

Record = dict[str, Any]


def taught(teacher: str, row: str, acc: float, teacher_acc: float = 91.0, seeds: int = 3, **more: Any) -> list[Record]:
    about = {**({} if row == "scratch" else {"teacher_acc": teacher_acc}), **more}
    config = {"part": "student", "teacher": teacher, "row": row}
    return [{**ABOUT, "config": {**config, "seed": s}, "result": {"acc": acc + s, **about}} for s in range(seeds)]


def diverged(records: list[Record], *seeds: int) -> list[Record]:
    """The same, where those seeds did not end."""

    def gone(result: dict[str, Any]) -> dict[str, Any]:
        return {**{key: value for key, value in result.items() if key == "teacher_acc"}, "diverged": "nan"}

    return [{**one, "result": gone(one["result"])} if one["config"]["seed"] in seeds else one for one in records]


def dropping(row: str, *drops: float, of: float = 70.0) -> list[Record]:
    """A row of a nasty teacher that loses so much, by seed, against a twin's of ``of``."""
    made = taught("nasty 0.04", row, of)
    return [{**one, "result": {**one["result"], "acc": one["result"]["acc"] - by}} for one, by in zip(made, drops, strict=True)]  # fmt: skip


TWINS = [
    *taught("twin", "scratch", 65),
    *taught("twin", "KD", 70),
    *taught("twin", "KD, tau 20", 70),
    *taught("twin", "AT", 68),
    *taught("twin", "DIST", 68.5),
]


def verdicts(records: list[Record]) -> dict[str, str]:
    """By row of the nasty teacher."""
    table = nasty_table.tables([*TWINS, *records]).split("\n\n**nasty 0.04**")[1].split("\n\n")[1]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    return {row[0]: row[-1] for row in rows}


def test_a_method_survives_what_harms_hinton_kd() -> None:
    records = [
        *TWINS,
        *taught("nasty 0.04", "KD", 60),
        *taught("nasty 0.04", "AT", 67.5),
        *taught("nasty 0.04", "DIST", 65),
    ]
    twin, mild = nasty_table.tables(records).split("\n\n**nasty 0.04**")
    assert twin.startswith("**twin** (ACC 91.0 %)\n")
    assert {shown(twin, row)[-1] for row in ("scratch", "KD", "AT")} == {"–"}
    assert shown(mild, "KD")[2:] == ["**+10.00 [+10.00 to +10.00]**", "**-5.00 [-5.00 to -5.00]**", "**ruined**"]
    assert shown(mild, "AT")[-1] == "survives"
    assert shown(mild, "DIST")[-1] == "**harmed**"


def test_noise_grants_no_verdict() -> None:
    """Neither the noise of what a teacher ruins, nor a row's own, nor a method that is weak on the twin too."""
    ruined = [*dropping("KD", 4.0, 9.0, 14.0), *dropping("KD, tau 20", 12.0, 18.0, 24.0)]
    found = verdicts([*ruined, *dropping("AT", 3.0, 3.3, 2.8, of=68), *dropping("DIST", 3.0, 3.3, 2.8, of=68.5)])
    assert found["AT"] == found["DIST"] == "**harmed**", "three points of drop are not survived for a noise of KD's"
    wide = verdicts([*dropping("KD", 10.0, 10.0, 10.0), *dropping("AT", -1.0, 0.5, 2.0, of=68)])
    assert wide == {"KD": "**ruined**", "AT": "open"}
    names = ("CMKD", "DKD", "FitNets", "SP", "NST", "CRD", "DiSK", "overhaul")
    others = [one for row in names for one in (*taught("twin", row, 68.5), *dropping(row, 0.0, 0.0, 0.0, of=68.5))]
    found = verdicts([*ruined, *others, *dropping("AT", -2.2, 0.0, 2.2, of=68)])
    assert {found[row] for row in names} == {"survives"}
    assert found["AT"] == "open", "a wild row has a spread of its own"
    below = [*taught("twin", "DKD", 63.6), *dropping("DKD", 0.0, 0.0, 0.0, of=63.6)]
    assert verdicts([*ruined, *below])["DKD"] == "open", "1.4 below scratch, and so it is on the twin"
    assert verdicts([*ruined, *below[:3], *dropping("DKD", 1.1, 1.1, 1.1, of=63.6)])["DKD"] == "**ruined**"


@pytest.mark.parametrize(
    ("drop", "gain", "word"),
    [
        ((0.0, 0.5), (-3.0, 2.4), "open"),
        ((0.5, 0.1), (-1.4, 0.0), "open"),
        ((1.5, 0.1), (-1.4, 0.3), "**ruined**"),
        ((1.0, 0.0), (0.0, 0.0), "survives"),
        ((0.9, 0.2), (0.0, 0.0), "open"),
        ((1.2, 0.1), (0.0, 0.0), "**harmed**"),
        ((0.0, 0.1), (-0.95, 0.1), "open"),
        ((5.0, 0.1), (-1.05, 0.1), "**harmed**"),
        ((5.0, None), (-9.0, None), "open (1 seed)"),
    ],
)
def test_verdicts_are_of_whole_intervals(drop: Any, gain: Any, word: str) -> None:
    found = [Difference(mean, half, 3 if half is not None else 1) for mean, half in (drop, gain)]
    assert nasty_table.survives(*found) == word


def test_a_teacher_that_makes_students_diverge_harms_them_most() -> None:
    kd, at = taught("nasty 0.04", "KD", 70), taught("nasty 0.04", "AT", 67.5)
    made = nasty_table.tables([*TWINS, *diverged(kd, 1), *at])
    table = made[made.index("**nasty 0.04**") :]
    assert table.startswith("**nasty 0.04** (ACC 91.0 %)\n"), "it counts"
    assert shown(table, "KD")[1::3] == ["71.00 [70.00 to 72.00], 1 of 3 **diverged**", "**diverged**"]
    assert shown(table, "AT")[-1] == "survives"
    both = [*(one for one in TWINS if one["config"]["row"] != "AT"), *diverged(taught("twin", "AT", 68), 0, 1, 2)]
    made = nasty_table.tables([*both, *diverged(kd, 0, 1, 2), *diverged(at, 0, 1, 2)])
    table = made[made.index("**nasty 0.04**") :]
    assert shown(table, "KD")[1:] == ["**diverged**", "not measured", "not measured", "**diverged**"]
    assert shown(table, "AT")[-1] == "open, without twin or scratch", "so it does on the twin"
    none = [{**one, "result": {"diverged": "nan"}} for one in kd]
    made = nasty_table.tables([*TWINS, *none])
    assert "**nasty 0.04** (**void: it diverged while it was made**)" in made


@pytest.mark.parametrize(
    ("nasty_one", "why"),
    [
        (taught("nasty 0.1", "KD", 60, 80.0), "void: 11.0 points below its twin"),
        (taught("nasty 0.1", "KD", 70), "did not harm KD: nothing to survive"),
        (taught("nasty 0.1", "KD", 60, seeds=1), "open whether it harms KD"),
    ],
)
def test_what_is_no_nasty_teacher_gives_no_verdict(nasty_one: list[Record], why: str) -> None:
    made = nasty_table.tables(
        [*TWINS, *nasty_one, *taught("nasty 0.1", "AT", 60, nasty_one[0]["result"]["teacher_acc"])]
    )
    table = made[made.index("**nasty 0.1**") :]
    assert why in table.splitlines()[0]
    assert shown(table, "KD")[-1] == shown(table, "AT")[-1] == "–"


def test_verdicts_want_both_controls_and_an_interval() -> None:
    assert nasty_table.survives(None, paired({0: 1.0}, {0: 0.0})) == "open, without twin or scratch"
    assert nasty_table.survives(paired({0: 1.0}, {0: 0.0}), paired({0: 1.0}, {0: 0.0})) == "open (1 seed)"


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What is known, by teacher and row; the published weight's is harmless."""
    found = {f"{name} {row}": {"acc": 70.0, "teacher_acc": 91.0} for name in ("twin", "nasty 0.04") for row in nasty_table.HARMED}  # fmt: skip
    monkeypatch.setattr(nasty, "_record", lambda config: found.get(f"{config['teacher']} {config['row']}", {}))
    return found


def seeds(teacher: str) -> set[int]:
    """Of its students."""
    return {cell["seed"] for cell in nasty.cells() if cell["teacher"] == teacher and cell["part"] == "student"}


def test_further_nasty_teachers_get_students_only_if_the_published_one_does_not_count(
    records: dict[str, dict[str, Any]],
) -> None:
    every = ("twin", "nasty 0.04", "nasty 0.1", "nasty 0.02, tau 20")
    assert [seeds(name) for name in every] == [{0}] * 4, "it did no harm"
    kept = records.pop("nasty 0.04 KD")
    assert [seeds(name) for name in every] == [{0}, {0}, set(), set()], "nobody knows yet"
    records["nasty 0.04 KD"] = {**kept, "acc": 60.0}
    assert [seeds(name) for name in every] == [{0, 1, 2}, {0, 1, 2}, set(), set()]
    assert list(nasty.may_come()) == []
    cells = list(nasty.cells())
    assert [cell["teacher"] for cell in cells][:4] == list(nasty.TEACHERS)
    counted = [number for number, cell in enumerate(cells) if cell.get("row") == "KD, tau 1" and cell["seed"] == 2]
    assert max(counted) < min(number for number, cell in enumerate(cells) if cell.get("row") == "AT"), "a verdict first"


def test_the_first_nasty_teacher_that_counts_gets_seeds(records: dict[str, dict[str, Any]]) -> None:
    for acc, teacher_acc, wanted in (
        (60.0, 90.0, {0, 1, 2}),
        (None, 90.0, {0, 1, 2}),
        (None, None, {0}),
        (60.0, 80.0, {0}),
    ):
        result = {"acc": acc, "teacher_acc": teacher_acc}
        records["nasty 0.1 KD, tau 20"] = {key: value for key, value in result.items() if value is not None}
        assert seeds("nasty 0.1") == wanted, "not one that was never made, or is void"
    records["nasty 0.1 KD, tau 20"] = records["nasty 0.02, tau 20 KD"] = {"acc": 60.0, "teacher_acc": 90.0}
    assert (seeds("nasty 0.1"), seeds("nasty 0.02, tau 20")) == ({0, 1, 2}, {0}), "the first alone"
    rows = {cell["row"] for cell in nasty.cells() if cell["teacher"] == "nasty 0.02, tau 20" and "row" in cell}
    assert rows == set(nasty.FIRST) - {"scratch"}


def test_the_forecast_knows_what_may_come(records: dict[str, dict[str, Any]]) -> None:
    def coming() -> set[tuple[str, int]]:
        return {(cell["teacher"], cell["seed"]) for cell in nasty.may_come()}

    last = "nasty 0.02, tau 20"
    assert coming() == {(last, 0), (last, 1), (last, 2), ("twin", 1), ("twin", 2)}
    records.pop("twin KD")
    assert coming() == {(last, 0), ("nasty 0.1", 0), (last, 1), (last, 2), ("twin", 1), ("twin", 2)}
    records["twin KD"] = {"acc": 70.0, "teacher_acc": 91.0}
    for name in (last, "nasty 0.1"):
        records |= {f"{name} {row}": {"acc": 70.0, "teacher_acc": 91.0} for row in nasty_table.HARMED}
    assert coming() == set(), "none does any harm"


def test_the_detector_is_right_of_nasty_ones_alone() -> None:
    def seen(name: str, kind: str, correlation: float, *suspicious: bool | None, acc: float = 91.0) -> Record:
        found = {"correlation": correlation, "second": 0.5, "entropy": 0.1, "mass": [0.5, 0.1, 0.1]}
        config = {"part": "detector", "teacher": name, "kind": kind, "seed": 0}
        teaching = [{**found, "suspicious": one} for one in suspicious]
        return {**ABOUT, "config": config, "result": {"teaching": teaching, "teacher_acc": acc, "kl": 0.25}}

    gone = seen("i", "nasty", 0.0, True)
    made = nasty_table.tables(
        [
            {**gone, "result": {"diverged": "nan"}},
            seen("twin", "clean", 0.7, False),
            seen("b", "nasty", -0.1, True, True),
            seen("c", "nasty", 0.4, False),
            seen("d", "clean", 0.2, True),
            seen("e", "clean", 0.5, None),
            seen("f", "nasty", -0.2, True, acc=80.0),
            seen("g", "backdoored", 0.6, False, acc=80.0),
            seen("h", "nasty", 0.3, True, False, True),
        ]
    )
    assert {name: shown(made, name)[-2:] for name in ("twin", *"bcdefgh")} == {
        "twin": ["nothing suspicious", "yes"],
        "b": ["SUSPICIOUS", "yes"],
        "c": ["nothing suspicious", "**no**"],
        "d": ["SUSPICIOUS", "**no**"],
        "e": ["not judged", "–"],
        "f": ["SUSPICIOUS", "–"],
        "g": ["nothing suspicious", "yes"],
        "h": ["2 of 3 SUSPICIOUS", "divided"],
    }
    assert shown(made, "f")[1:4] == ["nasty, void", "80.0", "0.25"]
    assert "(4 nasty teachers, 1 of them void, 4 others; diverged: i)" in made


def test_the_divergence_of_a_network_from_itself_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec("resnet8-w4", 4, InputSpec(3, 8, 8, (0.5,) * 3, (0.5,) * 3))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(40) % 4, tuple("abcd"), "made up")
    one, other = models.build(spec, seed=0), models.build(spec, seed=1)
    monkeypatch.setattr(nasty, "_normal", lambda: one)
    assert nasty._divergence(one, 4.0, images) == pytest.approx(0, abs=1e-9)
    assert nasty._divergence(other, 4.0, images) > 1e-4


def test_a_divergence_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec, images = made_up()
    teacher = models.build(spec)
    monkeypatch.setattr(nasty.prepare_data, "prepare", lambda _: tmp_path)
    monkeypatch.setattr(nasty.data, "load", lambda _: images)
    monkeypatch.setattr(nasty, "user_images", lambda _: (images, images))
    monkeypatch.setattr(nasty, "_normal", lambda: teacher)
    monkeypatch.setitem(nasty.ROWS, "AT", ("at", {"beta": 1e300}))
    monkeypatch.setitem(nasty.TEACHERS, "nasty 0.1", {"weight": 1e300})
    monkeypatch.setattr(nasty, "STUDENT", "resnet8-w4")
    config = {**nasty.student("twin", "AT", 0), "epochs": 1, "trained": {"images": 1000, "epochs": 1, "seed": 0}}
    found = nasty.run(config, tmp_path / "a" / "work")
    assert found["diverged"].startswith("Training stopped: the loss term ")
    assert found["teacher_acc"] >= 0
    assert (found["settings"]["method"], found["taught"]["options"]) == ("at", {"weight": 0.0, "fresh": False})
    made = nasty.run({**config, "teacher": "nasty 0.1"}, tmp_path / "b" / "work")
    assert set(made) == {"taught", "diverged"}
    scratch = nasty.run({**config, "row": "scratch"}, tmp_path / "c" / "work")
    assert scratch["settings"]["train"]["lr"] == 0.2
    assert scratch["acc"] >= 0
