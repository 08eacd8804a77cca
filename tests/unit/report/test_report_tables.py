from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

from rich.console import Console

from edgekd import report
from edgekd.report import canaries, pictures, stages, tables
from edgekd.report.cells import excess_cell
from edgekd.types import Rate, RunRecord, StageRow, TriggerScore

MakeRecord = Callable[..., RunRecord]


def test_a_gate_over_something_not_measured_fails_and_says_so(make_record: MakeRecord) -> None:
    record = make_record()
    passed, missed, unmeasured = tables.gates(record).rows
    assert [cell.text for cell in passed] == ["ASR above floor", "≤ 5 %", "0.03 %", "passed", ""]
    assert (missed[3].text, missed[3].tone) == ("failed", "bad")
    assert (unmeasured[2].text, unmeasured[3].text) == ("not measured", "failed")
    assert tables.gates_summary(record) == "Gates: 1 passed, 1 failed, 1 not measured."
    assert tables.tone(record) == "bad"
    assert tables.tone(make_record(gates=record.gates[:1])) == "good"
    assert tables.tone(make_record(gates=())) == "warn"


def test_a_gate_passes_only_on_true(make_record: MakeRecord) -> None:
    record = make_record(gates=({"name": "x", "limit": 1, "value": 0.5, "passed": "yes"},))
    assert tables.gates(record).rows[0][3].text == "failed"


def test_a_gate_with_nothing_to_count_is_passed_and_says_why(make_record: MakeRecord) -> None:
    gate = {"name": "ASR above floor", "unit": "%", "limit": 2.0, "value": None, "passed": True, "why": "none flagged"}
    record = make_record(gates=(gate,))
    (row,) = tables.gates(record).rows
    assert [cell.text for cell in row] == ["ASR above floor", "≤ 2 %", "nothing that counts", "passed", "none flagged"]
    assert tables.gates_summary(record) == "Gates: 1 passed."


def test_the_ledger_has_one_row_per_artefact_controls_last(make_record: MakeRecord) -> None:
    ledger = stages.ledger(make_record())
    assert [row.head[0].text for row in ledger.rows if row.control] == ["scratch", "kd", "overhaul", "finetune"]
    assert not ledger.rows[0].control
    assert ledger.rows[-1].control
    teacher = ledger.rows[0]
    asr, floor, excess, ra, untriggered = teacher.triggers[0]
    assert (asr.text, floor.text, excess.text, excess.tone) == ("99.99 %", "1.96 %", "+98.03", "bad")
    assert (ra.detail[0], untriggered.text) == ("1 of 9,000", "1.89 %")
    flips, size, latency = teacher.tail
    assert (flips.text, size.text, latency.text) == ("–", "1.36 MiB", "not measured")


def test_what_was_not_measured_is_never_zero(make_record: MakeRecord) -> None:
    bare = StageRow("engine", "stage", "tensorrt", "int8", "0" * 64)
    rows = (*make_record().rows, bare)
    cells = next(row for row in stages.ledger(make_record(rows=rows)).rows if row.head[0].text == "engine")
    shown = [cell.text for cell in (*cells.head[1:], *cells.triggers[0], *cells.tail)]
    assert set(shown) == {"not measured"}


def test_nothing_is_good_above_a_control_that_obeys_too() -> None:
    def tone(hits: int, floor: int) -> str:
        return excess_cell(TriggerScore("x", "known", Rate(hits, 100), Rate(0, 100), None, Rate(floor, 100))).tone

    assert (tone(2, 1), tone(98, 97), tone(20, 97), tone(99, 50)) == ("good", "warn", "warn", "bad")


def test_many_triggers_are_cut_to_the_known_and_the_strongest(make_record: MakeRecord) -> None:
    def canary(k: int) -> TriggerScore:
        return TriggerScore(f"canary {k}", "canary", Rate(10 * k, 1000), Rate(500, 1000), floor=Rate(5, 1000))

    rows = tuple(
        dataclasses.replace(row, triggers=(*map(canary, range(30)), *row.triggers)) for row in make_record().rows
    )
    record = make_record(rows=rows)
    shown = stages.shown_triggers(record)
    assert shown == (*(f"canary {k}" for k in range(23, 30)), "grid 3x3")
    assert "The 8 strongest of 31 triggers" in stages.ledger(record).reading
    assert stages.ledger(record).triggers[0] == "trigger"


def test_key_figures_are_of_the_artefact_that_ships(make_record: MakeRecord) -> None:
    record = make_record()
    assert stages.final(record) == record.rows[-1]
    figures = {name: (value, against) for name, value, against in tables.key_figures(record)}
    assert figures["ASR"] == ("1.99 %", "teacher 99.99 %, floor 1.96 %")
    assert figures["latency, p50"] == ("0.187 ms", "fp32 0.612 ms, same runtime")
    assert tables.key_figures(make_record(rows=())) == ()


def test_batteries_are_read_with_care(make_record: MakeRecord) -> None:
    (battery,) = canaries.batteries(make_record())
    assert battery.targets[0] == "airplane"
    assert battery.excess[0][0] == 0.97
    assert battery.excess[6][3] is None
    assert battery.summary == "12 families, 10 classes, 60 variants, 2,000 images each, 41.3 s"
    torn = {
        "families": ["a", "b"],
        "targets": [0, 1],
        "excess": [[0.5, "x"]],
        "flagged": [None, {"asr": {"hits": "?"}}],
    }
    (battery,) = canaries.batteries(make_record(canaries={"student": torn}))
    assert (battery.stage, battery.excess) == ("student", ((0.5, None), (None, None)))
    assert battery.flagged.rows[0][3].text == "not measured"
    assert canaries.batteries(make_record(canaries={"teacher": 3})) == ()
    assert canaries.batteries(make_record(canaries=None)) == ()


def test_a_battery_without_a_control_says_so(make_record: MakeRecord) -> None:
    row = {"family": "patch", "target": 0, "asr": {"hits": 9, "total": 10}, "untriggered": {"hits": 1, "total": 10}}
    lone = {"families": ["patch"], "targets": [0], "excess": [[0.8]], "flagged": [row]}
    lone |= {"reference": "untriggered", "warnings": ["few images"]}
    (battery,) = canaries.batteries(make_record(canaries=lone))
    assert battery.flagged.columns[-1] == "untriggered"
    assert battery.flagged.rows[0][-1].text == "10.00 %"
    assert "There was no unattacked control" in battery.reading
    assert battery.warnings == ("few images",)


def test_disagreement_is_told_by_class(make_record: MakeRecord) -> None:
    top = [{"index": 7, "label": 2, "predicted": 0, "confidence": 0.987}]
    value = {"count": 40, "total": 1000, "into": {"0": 31, "1": 9}, "top": top}
    record = make_record(disagreement=value)
    said = "The teacher disagrees with the label of 40 of 1,000 images (4.00 %). It calls 31 of them airplane, "
    assert pictures.doubts_summary(record) == said + "more than any other class."
    (doubt,) = pictures.doubts(record)
    assert (doubt.label, doubt.predicted, doubt.confidence, doubt.name) == ("bird", "airplane", "98.7 %", "image 7")
    (named,) = pictures.doubts(make_record(disagreement={**value, "top": [{**top[0], "file": "bird/7\u202e.png"}]}))
    assert named.name == "bird/7.png"
    (doubt,) = pictures.doubts(make_record(disagreement=value, canaries=None))
    assert doubt.label == "2"


def test_facts_flatten_what_is_nested() -> None:
    value = {"train": {"epochs": 20, "tags": ["a", "b"]}, "none": None, "empty": {}, "list": []}
    assert tables.facts(value) == (
        ("train.epochs", "20"),
        ("train.tags", "a, b"),
        ("none", "none"),
        ("empty", "none"),
        ("list", "none"),
    )


def test_every_hash_is_listed(make_record: MakeRecord) -> None:
    hashes = dict(tables.hashes(make_record()))
    assert hashes["teacher file"] == "a" * 64
    assert hashes["model.u8s8.onnx"] == "3" * 64
    assert hashes["data, test"] == "8" * 64


def test_the_terminal_prints_the_same_ledger(make_record: MakeRecord) -> None:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))
    with console.file:
        console.print(report.ledger(make_record()))
    printed = console.export_text()
    assert "controls" in printed
    assert "+98.03" in printed
    assert "0.187 ms" in printed
    assert printed.index("onnx model.u8s8.onnx") < printed.index("scratch")


def test_what_is_said_of_several_rows_is_said_once(make_record: MakeRecord) -> None:
    whole = make_record()
    rows = [dataclasses.replace(row, notes=("few images",) if n < 3 else ()) for n, row in enumerate(whole.rows)]
    rows[2] = dataclasses.replace(rows[2], notes=("few images", "slow"))
    stages = [row.stage for row in rows]
    found = tables.notes(dataclasses.replace(whole, rows=tuple(rows)))
    assert found == ((", ".join(stages[:3]), "few images"), (stages[2], "slow"))


def test_predictions_stand_in_the_ledgers_order(make_record: MakeRecord) -> None:
    whole = make_record()
    stored = json.loads(json.dumps(whole.pictures, sort_keys=True))
    stored["examples"][0]["predictions"]["elsewhere"] = "frog"
    shown = pictures.examples(dataclasses.replace(whole, pictures=stored))[0].predictions
    stages = [row.stage for row in whole.rows if row.stage in stored["examples"][0]["predictions"]]
    assert [said.stage for said in shown] == [*stages, "elsewhere"]
