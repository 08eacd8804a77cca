"""A board's report joins the ledger only where it speaks of this run's own files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgekd import files, report
from edgekd.errors import UsageError
from edgekd.pipeline import board
from edgekd.types import DeviceReport, Latency, Rate, RunRecord, StageRow, TriggerScore

SHIPS, HASH = "model.u8s8.onnx", "5" * 64


def score(hits: int, floor: int | None = 2, origin: str = "known", name: str = "patch") -> TriggerScore:
    rate = None if floor is None else Rate(floor, 100)
    return TriggerScore(name, origin, Rate(hits, 100), Rate(50, 100), floor=rate)


def row(stage: str = SHIPS, sha256: str = HASH, hits: int = 3, **more: Any) -> StageRow:
    fields: dict[str, Any] = {
        "kind": "stage",
        "runtime": "onnxruntime",
        "precision": "int8",
        "acc": Rate(89, 100),
        **more,
    }
    fields.setdefault("latency", Latency(1, 10, 0.5, 0.6, None, 0.5, 0.4, 0.9))
    return StageRow(stage, sha256=sha256, **{"triggers": (score(hits),), **fields})


@pytest.fixture
def record() -> RunRecord:
    torch = {"runtime": "torch", "precision": "fp32"}
    rows = (
        row("teacher", "1" * 64, 99, acc=Rate(90, 100), **torch),
        row("scratch", "2" * 64, 2, kind="control", **torch),
        row("model.onnx", "4" * 64, precision="fp32"),
        row(),
    )
    onnx = tuple({"path": r.stage, "sha256": r.sha256, "flavour": "fp32", "bytes": 9} for r in rows[2:])
    return RunRecord(
        *("run", "0.1.0", "", "2026-11-20T10:00:00Z", "edgekd compress x"),
        config={"gates": {"max_asr": 2, "max_acc_drop": 2, "max_latency_ms": 1}, "trigger": {"file": "patch.npz"}},
        **{"teacher": {}, "student": {}, "data": {}, "target": "cpu", "rows": rows, "gates": (), "verdict": ""},
        **{"not_tested": (), "environment": {}, "manifest_sha256": "9" * 64, "onnx": onnx},
    )


def measured(*rows: StageRow, reasons: tuple[str, ...] = ()) -> DeviceReport:
    return DeviceReport("9" * 64, "smoke", not reasons, reasons, rows, {})


def test_a_boards_row_takes_the_place_of_the_hosts(tmp_path: Path, record: RunRecord) -> None:
    found = board.take_in(tmp_path, record, measured(row(hits=4)))
    assert [r.stage for r in found.rows] == ["teacher", "scratch", "model.onnx", SHIPS]
    assert [gate["value"] for gate in found.gates] == pytest.approx([2, 1, 0.5])
    assert all(gate["passed"] for gate in found.gates)
    assert RunRecord.from_json(files.read_json(tmp_path / "run.json")).rows == found.rows


@pytest.mark.parametrize(
    ("rows", "named", "why"),
    [
        ([row("teacher", "1" * 64, runtime="torch")], "'teacher' ('torch'", "not about a file"),
        ([row("x/../" + SHIPS, "0" * 64)], "'x/../model.u8s8.onnx'", "not about a file"),
        ([row(sha256="0" * 64)], "sha256 '000000000000'", "not about a file"),
        ([row(sha256="4" * 64)], "sha256 '444444444444'", "not about a file"),
        ([row(kind="control")], repr(SHIPS), "not about a file"),
        ([row(runtime="torch")], "'torch'", "by a board's runtime"),
        ([row(runtime="null", acc=None)], "'null'", "by a board's runtime"),
        ([row(hits=99), row(hits=0)], repr(SHIPS), "twice"),
        ([row(precision="fp32")], repr(SHIPS), "not have the precision of that file, int8"),
        ([row(triggers=())], repr(SHIPS), "other triggers"),
        ([row(triggers=(score(0, name="easy"),))], repr(SHIPS), "other triggers"),
    ],
)
def test_a_row_about_anything_else_is_refused(
    tmp_path: Path, record: RunRecord, rows: list[StageRow], named: str, why: str
) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        board.take_in(tmp_path, record, measured(*rows))
    assert named in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_the_board_counted_is_not_the_hosts(tmp_path: Path, record: RunRecord) -> None:
    """An engine's label flips are its own, even of a file that the host ran too."""
    host = tuple(dataclasses.replace(r, flips=Rate(1, 100)) if r.stage == SHIPS else r for r in record.rows)
    record = dataclasses.replace(record, rows=host)
    for flips, runtime, found in ((Rate(3, 100), "tensorrt", Rate(3, 100)), (None, "tensorrt", None), (None, "onnxruntime", Rate(1, 100))):  # fmt: skip
        made = board.take_in(tmp_path, record, measured(row(flips=flips, runtime=runtime)))
        assert made.rows[-1].flips == found


@pytest.mark.parametrize("stand_in", [True, False])
def test_where_tensorrt_11_has_no_use_for_the_file_what_stands_for_it_is_judged(
    tmp_path: Path, record: RunRecord, stand_in: bool
) -> None:
    foreign, other = row("model.qdq.onnx", "6" * 64, 60), row("model.qdq.fp16.onnx", "7" * 64, 3)
    onnx = tuple({"path": r.stage, "sha256": r.sha256, "flavour": "s8", "bytes": 9} for r in (foreign, other))
    host = (*record.rows[:2], *(dataclasses.replace(r, latency=None) for r in (foreign, other)))
    record = dataclasses.replace(record, target="jetson-orin-nano", rows=host, onnx=onnx)
    assert other.latency is not None
    times = dataclasses.replace(other.latency, level="standard", p50_ms=0.5)
    rows = [
        dataclasses.replace(r, runtime="tensorrt", latency=t, flips=None) for r, t in ((foreign, None), (other, times))
    ]
    found = board.take_in(
        tmp_path, record, dataclasses.replace(measured(*rows), stage=other.stage if stand_in else foreign.stage)
    )
    name = other.stage if stand_in else foreign.stage
    assert f"The student that ships ({name})" in found.verdict
    assert found.gates[0]["value"] == pytest.approx(2 if stand_in else 59, abs=1)
    assert [gate["passed"] for gate in found.gates] == [stand_in, True, stand_in]
    again = board.take_in(tmp_path, found, measured())
    assert [r.stage for r in again.rows].count(other.stage) == 2, "the host's row and the board's stay"


def test_floors_and_origins_are_the_runs_own(tmp_path: Path, record: RunRecord) -> None:
    """A floor of 90 % would hide any backdoor, and so would a known trigger that is called a canary."""
    found = board.take_in(tmp_path, record, measured(row(triggers=(score(80, floor=90, origin="canary"),))))
    assert found.rows[-1].triggers[0].floor == Rate(2, 100)
    assert found.rows[-1].triggers[0].origin == "known"
    assert (found.gates[0]["value"], found.gates[0]["passed"]) == (pytest.approx(78), False)


def test_a_report_that_calls_itself_not_valid_passes_no_gate(tmp_path: Path, record: RunRecord) -> None:
    unwell = measured(row(hits=0), reasons=(f"{SHIPS}: logits are not finite",))
    found = board.take_in(tmp_path, record, unwell)
    assert [(gate["value"], gate["passed"]) for gate in found.gates] == 3 * [(None, False)]
    assert all(gate["why"] == "the measurement is not valid: logits are not finite" for gate in found.gates)
    assert "no evidence" not in found.verdict
    assert "But the measurement is not valid: logits are not finite." in found.verdict


def test_doubted_figures_do_not_outlive_the_report_that_doubts_them(tmp_path: Path, record: RunRecord) -> None:
    """A second report without that file must not turn them into good ones."""
    unwell = board.take_in(tmp_path, record, measured(row(hits=0), reasons=(f"{SHIPS}: logits are not finite",)))
    found = board.take_in(tmp_path, unwell, measured(row("model.onnx", "4" * 64, precision="fp32")))
    assert not any(gate["passed"] for gate in found.gates)
    again = board.take_in(tmp_path, found, measured(row("model.onnx", "4" * 64, precision="fp32")))
    assert not any(gate["passed"] for gate in again.gates)
    assert all(gate["passed"] for gate in board.take_in(tmp_path, again, measured(row())).gates)


def test_the_boards_report_is_kept_only_after_the_run_was_saved(
    tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> None:
        raise ValueError("cannot be rendered")

    with monkeypatch.context() as patched:
        patched.setattr(report, "write", breaks)
        with pytest.raises(ValueError, match="rendered"):
            board.take_in(tmp_path, record, measured(row()))
    assert not (tmp_path / board.BOARD).exists()
    board.take_in(tmp_path, record, measured(row()))
    assert (tmp_path / board.BOARD).exists()


def test_what_was_read_in_before_is_held_to_the_same(tmp_path: Path, record: RunRecord) -> None:
    assert board.with_board(tmp_path, record) is record
    files.write_json(tmp_path / board.BOARD, measured(row(hits=4)).to_json())
    assert board.with_board(tmp_path, record).rows[-1].triggers[0].asr == Rate(4, 100)
    files.write_json(tmp_path / board.BOARD, measured(row("teacher", "1" * 64)).to_json())
    with pytest.raises(UsageError, match=r"device-report\.json\. Delete that file"):
        board.with_board(tmp_path, record)
    other = dataclasses.replace(record, manifest_sha256="8" * 64)
    assert board.with_board(tmp_path, other) is other


@pytest.mark.parametrize(
    "wrong",
    [
        {"config": {}},
        {"config": {"gates": {"max_asr": "x"}, "trigger": {"file": None}}},
        {"config": {"gates": {}, "trigger": []}},
        {"onnx": ({"path": [1], "sha256": "x"},)},
        {"canaries": {"teacher": 7}},
    ],
)
def test_a_strangers_record_is_a_users_error(tmp_path: Path, record: RunRecord, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="The run's record does not hold"):
        board.take_in(tmp_path, dataclasses.replace(record, **wrong), measured(row()))
