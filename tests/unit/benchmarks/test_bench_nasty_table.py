"""The table of nasty teachers: which of them count, who survives them, whom the detector points at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from provenance import ABOUT, shown

from benchmarks import nasty, nasty_table
from benchmarks.paired import paired
from edgekd import models
from edgekd.data import ImageSet
from edgekd.types import InputSpec, ModelSpec

Record = dict[str, Any]


def taught(teacher: str, row: str, acc: float, teacher_acc: float = 91.0, seeds: int = 3) -> list[Record]:
    about = {} if row == "scratch" else {"teacher_acc": teacher_acc}
    config = {"part": "student", "teacher": teacher, "row": row}
    return [{**ABOUT, "config": {**config, "seed": s}, "result": {"acc": acc + s, **about}} for s in range(seeds)]


TWINS = [
    *taught("twin", "scratch", 65),
    *taught("twin", "KD", 70),
    *taught("twin", "AT", 68),
    *taught("twin", "DIST", 68.5),
]


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


def test_further_nasty_teachers_get_seeds_where_they_count(monkeypatch: pytest.MonkeyPatch) -> None:
    records: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(nasty, "_record", lambda config: records.get(f"{config['teacher']} {config['row']}", {}))

    def seeds(teacher: str) -> set[int]:
        return {cell["seed"] for cell in nasty.cells() if cell["teacher"] == teacher}

    assert seeds("nasty 0.1") == {0}
    records["twin KD, tau 20"] = {"acc": 70.0, "teacher_acc": 91.0}
    records["nasty 0.1 KD, tau 20"] = {"acc": 60.0, "teacher_acc": 90.0}
    assert seeds("nasty 0.1") == {0, 1, 2}
    assert seeds("nasty 0.02, tau 20") == {0}
    records["nasty 0.1 KD, tau 20"] = {"acc": 60.0, "teacher_acc": 80.0}
    assert seeds("nasty 0.1") == {0}, "void"
    assert [cell["teacher"] for cell in nasty.cells()][:4] == list(nasty.TEACHERS)


def test_the_detector_is_right_of_nasty_ones_alone() -> None:
    def seen(name: str, kind: str, correlation: float, *suspicious: bool | None, acc: float = 91.0) -> Record:
        found = {"correlation": correlation, "second": 0.5, "entropy": 0.1, "mass": [0.5, 0.1, 0.1]}
        config = {"part": "detector", "teacher": name, "kind": kind, "seed": 0}
        teaching = [{**found, "suspicious": one} for one in suspicious]
        return {**ABOUT, "config": config, "result": {"teaching": teaching, "teacher_acc": acc, "kl": 0.25}}

    made = nasty_table.tables(
        [
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
    assert "(4 nasty teachers, 1 of them void, 4 others)" in made


def test_the_divergence_of_a_network_from_itself_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec("resnet8-w4", 4, InputSpec(3, 8, 8, (0.5,) * 3, (0.5,) * 3))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(40) % 4, tuple("abcd"), "made up")
    one, other = models.build(spec, seed=0), models.build(spec, seed=1)
    monkeypatch.setattr(nasty, "_normal", lambda: one)
    assert nasty._divergence(one, 4.0, images) == pytest.approx(0, abs=1e-9)
    assert nasty._divergence(other, 4.0, images) > 1e-4
