"""Detoxification in the report: what was chosen, what it cost, and sites whose variance it did not lower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgekd.report import detox, html, markdown
from edgekd.types import RunRecord

MakeRecord = Callable[..., RunRecord]
FOUND: dict[str, Any] = {
    "lambda_f": 0.3,
    "steps": 300,
    "acc_raw": 0.9375,
    "acc_detox": 0.9321,
    "within_max_drop": True,
    "restored": False,
    "variance_ratio": [1.0301393, 0.9460766, 0.9073041],
    "offset_norm": {"1": 0.6, "2": 0.8},
    "sweep": [{"lambda_f": 1.0, "acc": 0.9}, {"lambda_f": 0.3, "acc": 0.9321}],
}


def with_detox(make_record: MakeRecord, found: Any) -> RunRecord:
    logs = make_record().training
    return make_record(training={**logs, "robustkd": {**logs["robustkd"], "method": {"beta": 0.001, "detox": found}}})


def test_what_detoxification_did_stands_in_the_report(make_record: MakeRecord) -> None:
    record = with_detox(make_record, FOUND)
    (row,) = detox.table(record).rows
    assert [cell.text for cell in row] == [
        *("robustkd", "0.3", "93.75 %", "93.21 %", "1.030, 0.946, 0.907", "1: 90.00 %; 0.3: 93.21 %", "no"),
    ]
    assert row[0].detail == ("300 steps",)
    assert (row[4].detail, row[4].tone) == (("not below 1 at site 0", "not edited: site 0"), "warn")
    for page in (html(record), markdown(record)):
        assert "Detoxification" in page
        assert "1.030, 0.946, 0.907" in page
        assert "93.75 %" in page


def test_a_run_without_it_says_nothing_of_it(make_record: MakeRecord) -> None:
    assert detox.table(make_record()).rows == ()
    assert "Detoxification" not in html(make_record())
    assert "Detoxification" not in markdown(make_record())


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"variance_ratio": "x", "sweep": 3, "restored": [], "lambda_f": None, "offset_norm": [1]},
        {
            "variance_ratio": ["x", None, float("nan")],
            "sweep": [None, {"acc": "<script>", "lambda_f": "<script>"}],
            "acc_raw": True,
        },
        {"acc_raw": None, "acc_detox": None, "within_max_drop": None, "sweep": []},
    ],
)
def test_a_log_that_is_none_breaks_no_page(make_record: MakeRecord, found: Any) -> None:
    (row,) = detox.table(with_detox(make_record, found)).rows
    assert row[2].text == "not measured"
    assert "<script" not in html(with_detox(make_record, found))


def test_what_cost_too_much_is_marked(make_record: MakeRecord) -> None:
    (row,) = detox.table(with_detox(make_record, {**FOUND, "within_max_drop": False, "restored": True})).rows
    assert (row[3].tone, row[6].text) == ("warn", "yes")


@pytest.mark.parametrize(
    ("ratios", "named"),
    [
        ([0.9, 0.9994], None),
        ([0.9, 0.9996], "1.000 at site 1"),
        ([1.0, 1.5, 0.2], "1.000 at site 0, 1.500 at site 1"),
        ([float("nan")], "nan at site 0"),
        ([], None),
    ],
)
def test_a_site_that_kept_its_variance_is_warned_of(ratios: list[float], named: str | None) -> None:
    said = detox.warning({"variance_ratio": ratios})
    assert said is None if named is None else said is not None and f": {named}; the ratio" in said
    assert detox.warning({}) is None
