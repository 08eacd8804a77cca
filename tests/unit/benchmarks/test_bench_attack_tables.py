"""The tables of attacks and of their transfer: who is held against whom, what a verdict needs, which students are trained."""

from __future__ import annotations

from typing import Any

import pytest
from provenance import ABOUT

from benchmarks import attacks, attacks_table, datafree, paper_scale, paper_scale_table, transfer, transfer_table
from benchmarks.grid import HERE, Cell
from edgekd.attacks import ATTACKS
from edgekd.attacks.run import attack_class
from edgekd.config import resolve_attack
from edgekd.datafree.run import source_class
from edgekd.files import read_json


def attacked(name: str, epochs: int, acc: float, asr: float = 99.0) -> dict[str, Any]:
    config = {"attack": name, "epochs": epochs, "seed": 0, **({} if name in ("none", "scar") else {"rate": 0.1})}
    return {**ABOUT, "config": config, "result": {"acc": acc, "asr": asr, "floor": 0.5, "seconds": 10.0}}


def student(kind: str, seed: int, asr: float, **changes: Any) -> dict[str, Any]:
    config = {**transfer.cell("leak", transfer.CLEAN, kind, seed), **changes}
    result = {"acc": 70.0, "asr": asr, "ra": 50.0, "teacher_acc": 90.0, "teacher_asr": 99.0}
    return {**ABOUT, "config": config, "result": result}


def lines(made: str, word: str) -> list[list[str]]:
    return [row.strip("| ").split(" | ") for row in made.splitlines() if row.startswith(f"| {word} ")]


def test_the_twin_had_as_many_epochs() -> None:
    rows = [attacked("none", 2, 91.0), attacked("none", 4, 92.0), attacked("badnets", 4, 90.4), attacked("lf", 2, 90.4)]
    made = attacks_table.tables(rows)
    assert [row[4] for row in lines(made, "badnets")] == ["1.60"]
    assert lines(made, "badnets")[0][-1] == "**ACC more than 1.5 below the twin**"
    assert (lines(made, "lf")[0][4], lines(made, "lf")[0][-1]) == ("0.60", "met")
    assert "no twin yet" in attacks_table.tables([attacked("wanet", 8, 90.0), *rows[:2]])
    assert lines(attacks_table.tables([attacked("scar", 1, 90.5, 3.0), *rows[:2]]), "scar")[0][-1] == "met"


@pytest.mark.parametrize(
    ("found", "scratch", "verdict"),
    [
        ((90, 95, 99), (1, 2, 3), "Hinton KD: TRANSFERABLE"),
        ((90, 95), (1, 2, 3), "Hinton KD: above the bar (2 seeds)"),
        ((90, 95, 99), (1, 2), "Hinton KD: above the bar (2 seeds)"),
        ((90, 95, 99), (), "Hinton KD: open, without scratch"),
        ((60, 60, 60), (40, 40, 40), "Hinton KD: NOT TRANSFERABLE"),
        ((49, 49, 49), (1, 1, 1), "Hinton KD: NOT TRANSFERABLE"),
        ((10,), (1,), "Hinton KD: below the bar (1 seed)"),
    ],
)
def test_a_verdict_needs_three_seeds_and_scratch_at_each(
    found: tuple[float, ...], scratch: tuple[float, ...], verdict: str
) -> None:
    records = [student("kd", seed, asr) for seed, asr in enumerate(found)]
    records += [student("scratch", seed, asr) for seed, asr in enumerate(scratch)]
    row = lines(transfer_table.tables(records), "leak")[0]
    assert row[-1] == verdict


def test_the_excess_is_over_the_same_seeds_scratch_student() -> None:
    records = [student("kd", 0, 90.0), student("scratch", 0, 10.0), student("scratch", 1, 60.0)]
    assert lines(transfer_table.tables(records), "leak")[0][4] == "70.0 / 90.0 / 50.0, +80.0"


def test_the_overview_has_a_row_per_teacher_and_marks_what_carries_over() -> None:
    records = [student("scratch", seed, 1.0) for seed in range(3)] + [student("kd", seed, 90.0) for seed in range(3)]
    shared = {"rate": 0.02, "labels": "teacher"}
    records += [
        student("scratch", 0, 1.0, **shared),
        student("overhaul", 0, 80.0, **shared),
        student("kd", 0, 20.0, **shared),
    ]
    records += [student("overhaul", 0, 0.6), student("kd", 0, 99.0, student="wrn-10-1")]  # another student: not here
    records += [student("scratch", 0, 1.0, teacher="adba")]
    made = transfer_table.overview(records)
    assert lines(made, "leak") == [["leak", "**+89**", "+0", "+19", "_+79_", "–", "–"]]
    assert lines(made, "adba") == []


def test_every_kind_that_was_run_has_its_word() -> None:
    records = [student(kind, 0, asr) for kind, asr in (("kd", 90.0), ("overhaul", 1.0), ("scratch", 0.5))]
    row = lines(transfer_table.tables(records), "leak")[0]
    assert row[-1] == "Hinton KD: above the bar (1 seed); overhaul KD: below the bar (1 seed)"
    assert row[-2] == "–"


def test_every_missed_bar_of_the_records_has_its_reason() -> None:
    records = [read_json(file) for file in sorted((HERE / "results" / "attacks").glob("*.json"))]
    made = attacks_table.tables(records)
    assert "Why bars are missed:" in made
    assert "not looked into" not in made


def test_a_row_of_fewer_epochs_asks_for_no_reason() -> None:
    rows = [attacked("none", 2, 91.0), attacked("badnets", 2, 91.0, 50.0), attacked("none", 4, 91.0)]
    made = attacks_table.tables([*rows, attacked("badnets", 4, 91.0, 99.0)])
    assert [row[-1] for row in lines(made, "badnets")] == ["fewer epochs: ASR below 95", "met"]
    assert "Why bars" not in made
    assert f"- badnets: {attacks_table.WHY['badnets']}" in attacks_table.tables(rows)


@pytest.mark.parametrize("name", [name for name in attacks.NAMES if name in ATTACKS])
def test_the_command_gives_an_attack_no_less_than_its_record_had(name: str) -> None:
    kind, made = attack_class(name), attacks.cell(name)
    assert kind.epochs >= made["epochs"]
    assert kind.clean_label <= (kind.Config().rate == made.get("rate", 0.1))


def test_a_variant_is_a_row_of_its_own() -> None:
    cell = attacks.cell("adba without trace")
    assert (cell["attack"], cell["options"]["trace"]) == ("adba", 0.0)
    assert Cell(attacks.TABLE, cell, HERE).id != Cell(attacks.TABLE, attacks.cell("adba"), HERE).id
    assert attacks_table.name_of(cell) == "adba, trace 0, tile 0, trigger_lr 0.02, match 0"
    resolved = resolve_attack(
        None, {"attack.name": "adba", "data": "-", **{f"attack.{k}": v for k, v in cell["options"].items()}}
    )
    assert resolved.options["trace"] == 0


def test_what_stayed_below_the_bar_gets_a_larger_share_and_what_carried_over_a_smaller_one(monkeypatch) -> None:
    found: dict[float, list[float]] = {}
    for reached in (20.0, 40.0, 90.0):
        monkeypatch.setattr(transfer, "_asr", lambda config, reached=reached: reached if config["rate"] else 0.0)
        found[reached] = sorted({config["rate"] for config in transfer.wanted()})
    assert found == {20.0: [0.0, 0.02], 40.0: [0.0, 0.01, 0.02, 0.05], 90.0: [0.0, 0.01, 0.02]}


def test_a_frozen_body_gets_its_last_layer_by_labels_alone_too() -> None:
    """Without a teacher, yet not the scratch student that is its floor; three seeds of what a claim is made of."""
    bodies = [config for config in transfer._copied() if config["start"] == "frozen body"]
    assert {config["kind"] for config in bodies} == {"kd", transfer.WITHOUT_TEACHER}
    for name in transfer.COPIED["frozen body"]:
        seeds = [c["seed"] for c in bodies if (c["teacher"], c["kind"]) == (name, transfer.WITHOUT_TEACHER)]
        assert seeds == ([0, 1, 2] if name in transfer.REUSED else [0])
    floors = {transfer.student_of(c) for c in transfer._copied() if c["kind"] == "scratch"}
    assert not floors & {transfer.student_of(config) for config in bodies}


def test_rows_of_scratch_students_alone_are_no_rows() -> None:
    assert lines(transfer_table.tables([student("scratch", 0, 5.0)]), "leak") == []
    assert len(lines(transfer_table.tables([student("scratch", 0, 5.0), student("kd", 0, 50.0)]), "leak")) == 1


def test_no_more_students_than_allowed_and_no_cell_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    for reached in (0.0, 99.0):
        monkeypatch.setattr(transfer, "_asr", lambda config, reached=reached: reached)
        found = list(transfer.cells())
        assert len({transfer.canonical_json(config) for config in found}) == len(found)
        assert len({transfer.student_of(config) for config in found}) <= transfer.MOST
    assert found[0]["seed"] == 1  # what reached the mark is settled before more is screened


def test_a_scratch_student_of_clean_images_is_every_teachers() -> None:
    one, other = (transfer.cell(name, transfer.CLEAN, "scratch") for name in ("leak", "scar"))
    assert transfer.student_of(one) == transfer.student_of(other)
    one, other = (transfer.cell(name, transfer.SCENARIOS[1], "scratch") for name in ("leak", "scar"))
    assert transfer.student_of(one) != transfer.student_of(other)


def test_every_student_is_of_the_teacher_that_the_attacks_table_speaks_of() -> None:
    students = [read_json(file) for file in sorted((HERE / "results" / "transfer").glob("*.json"))]
    own = [record for record in students if record["config"]["teacher"] in ATTACKS]
    assert own
    for record in own:
        teacher = Cell(attacks.TABLE, attacks.cell(record["config"]["teacher"]), HERE).record
        assert record["result"]["teacher_sha256"] == read_json(teacher)["result"]["weights_sha256"], record["config"]


def test_every_teacher_was_made_with_todays_defaults() -> None:
    """A changed default does not change a cell's hash, so its record would go on standing for something else."""
    for config in attacks.cells():
        place = Cell(attacks.TABLE, config, HERE).record
        options = read_json(place)["result"].get("options") if place.exists() else None
        if options is not None:
            kind = attack_class(config["attack"]).Config
            own = {key: options[key] for key in ("rate", "shadow", "surrogate") if key in options}
            own |= config.get("options", {})
            assert {"name": config["attack"], **kind(**own).model_dump(mode="json")} == options, config


def test_paper_scale_rows_stand_beside_what_was_published() -> None:
    def row(acc: float, asr: float, arch: str = "preactresnet18", rate: float = 0.1) -> list[str]:
        record = {**ABOUT, "config": paper_scale.cell("badnets", arch, rate), "result": {"acc": acc, "asr": asr}}
        return lines(paper_scale_table.tables([record]), "badnets")[0]

    assert row(91.0, 94.0)[-2:] == ["91.3 / 95", "yes"]
    assert row(86.0, 94.0)[-1] == "**no**"
    assert row(86.0, 74.0, rate=0.01)[-2:] == ["– / 74.7", "yes"]  # the card has no ACC at this rate
    assert row(91.0, 94.0, arch="wrn-28-4")[-2:] == ["–", "–"]


def test_without_data_every_band_of_the_card_is_held_against() -> None:
    def said(acc: float, asr: float) -> str:
        config = next(iter(paper_scale.without_data()))
        figures = {"acc": acc, "asr": asr, "ra": 1.0}
        result = {"teacher": figures, "fp32": figures, "int8": figures, "agreement": 90.0, "steps": 1, "seconds": 1.0}
        record = {**ABOUT, "config": config, "result": {**result, "method": {}}}
        return paper_scale_table.without_data([record]).splitlines()[-1]

    assert said(72.0, 97.0) == "- zskt, badnets, plain: 72.0 / 97.0, expected 70 to 83 / 87 to 100: yes"
    assert said(72.0, 80.0).endswith("**no**")
    assert said(60.0, 97.0).endswith("**no**")
    listed = list(paper_scale.without_data())
    for (source, teacher), rows in paper_scale_table.BANDS.items():  # none stands there for nothing
        assert set(rows) <= {each["row"] for each in listed if (each["source"], each["teacher"]) == (source, teacher)}
    assert {each["source"] for each in listed if each["row"] == "+SR"} == {"zskt"}


def test_without_data_sources_have_their_published_size() -> None:
    for config in paper_scale.without_data():
        if config["row"] == "KD on clean data":
            continue
        settings = source_class(config["source"]).Config(**config["options"])
        if config["source"] == "zskt":
            assert (config["epochs"] * settings.rounds, settings.student_steps) == (80_000, 10)
            assert (settings.width, settings.balance, settings.latent) == (128, 0, 100)
        else:
            assert (config["epochs"], settings.inversion_steps, settings.student_steps) == (200, 200, 400)
            assert (settings.images, settings.bank) == (256, 40_960)
        assert datafree._settings(config).retrospect.length(0) == {"zskt": 6010, "cmi": 800}[config["source"]]


def test_paper_scale_has_a_teacher_for_every_student() -> None:
    teachers = [Cell(paper_scale.TABLE, config, HERE).id for config in paper_scale.cells()]
    assert len(set(teachers)) == len(teachers)
    for config in paper_scale.without_data():
        place = paper_scale.cell(config["teacher"], config["arch"], paper_scale.DATALESS_RATE)
        assert Cell(paper_scale.TABLE, place, HERE).id in teachers
    for config in paper_scale.students():
        rate = attacks.cell(config["teacher"]).get("rate")
        assert Cell(paper_scale.TABLE, paper_scale.cell(config["teacher"], config["arch"], rate), HERE).id in teachers
