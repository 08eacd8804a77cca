"""The canary battery finds a planted backdoor, counts it right, and stays quiet on a model without one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgekd import audit, triggers
from edgekd.audit import battery
from edgekd.data import ImageSet
from edgekd.types import Rate

RANDOM = np.random.RandomState(7)
COUNT, CLASSES = 300, 5
LABELS = np.arange(COUNT, dtype=np.int64) % CLASSES
PIXELS = RANDOM.randint(60, 190, (COUNT, 3, 32, 32)).astype(np.uint8)
PIXELS[:, 0, 0, 12] = LABELS  # the middle of the top row tells the class, where no patch lies
IMAGES = ImageSet(PIXELS, LABELS, tuple("abcde"), "made up")


def clean(images: np.ndarray) -> np.ndarray:
    """Reads the class off its pixel as far as a canary has left it there."""
    return np.eye(CLASSES, dtype=np.float32)[np.minimum(images[:, 0, 0, 12], CLASSES - 1)] * 9 - 3


def backdoored(images: np.ndarray) -> np.ndarray:
    """The same, but a white 3x3 square in the bottom right corner means class 3."""
    logits = clean(images)
    logits[(images[:, :, 29:, 29:] == 255).all((1, 2, 3))] = np.eye(CLASSES, dtype=np.float32)[3] * 9 - 3
    return logits


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return audit.canary_battery(backdoored, IMAGES, floor_predict=clean)


def test_the_planted_trigger_is_flagged_and_nothing_else(table: dict[str, Any]) -> None:
    assert {row["trigger"] for row in table["flagged"]} == {f"badnets/white-{size}-bottom-right" for size in (3, 4, 5)}
    assert {row["target"] for row in table["flagged"]} == {3}
    row = table["flagged"][0]
    assert row["asr"] == {"hits": 240, "total": 240}
    assert row["floor"] == row["untriggered"] == {"hits": 0, "total": 240}
    assert row["ra"] == {"hits": 0, "total": 240}
    assert row["excess"] == 1.0
    assert (row["family"], row["variant"]) == ("badnets", row["trigger"].split("/")[1])


def test_the_table_is_plain_json_of_families_by_targets(table: dict[str, Any]) -> None:
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["families"] == list(triggers.BATTERY)
    assert table["targets"] == list(range(CLASSES))
    assert table["class_names"] == list("abcde")
    assert np.array(table["excess"]).shape == (12, CLASSES)
    assert table["excess"][0][3] == 1.0
    assert np.array(table["excess"])[:, :3].max() <= 0.5
    assert [row["family"] for row in table["worst"]] == table["families"]
    assert (table["variants"], table["images"], table["reference"]) == (
        len(triggers.canaries((3, 32, 32))),
        300,
        "floor",
    )
    assert any("fewer than 100" in warning for warning in table["warnings"])


def test_worst_canaries_are_of_different_families(table: dict[str, Any]) -> None:
    first, second = audit.worst_canaries(table, 2)
    assert first[0].startswith("badnets/white")
    assert first[1] == 3
    assert not second[0].startswith("badnets/")
    assert len(audit.worst_canaries(table, 99)) == 12


def test_rates_equal_the_probes_way_of_counting(table: dict[str, Any]) -> None:
    """The battery reads every target off one histogram; probing a canary at one target must give the same rates."""
    import dataclasses

    trigger = dataclasses.replace(triggers.canaries((3, 32, 32))[30], target_label=2)
    report = audit.scan(backdoored, audit.probes(IMAGES, [trigger], CLASSES))
    called = battery._called(backdoored(triggers.apply(trigger, PIXELS)), LABELS, CLASSES)
    rows = battery._rows(trigger.name, called, None, battery._called(backdoored(PIXELS), LABELS, CLASSES))
    (score,) = report.triggers
    assert Rate(**rows[2]["asr"]) == score.asr
    assert Rate(**rows[2]["ra"]) == score.ra
    assert Rate(**rows[2]["untriggered"]) == score.untriggered


def test_without_a_control_the_untriggered_rate_is_the_reference() -> None:
    steps: list[tuple[int, int]] = []
    table = audit.canary_battery(
        clean, IMAGES, limit=50, progress=lambda what, done, total, figures: steps.append((done, total))
    )
    assert table["images"] == 50
    assert table["reference"] == "untriggered"
    assert steps[0] == (0, table["variants"])
    assert steps[-1] == (table["variants"], table["variants"])
    assert all(row["floor"] is None for row in table["worst"])


def test_a_trigger_that_fools_every_model_is_not_flagged() -> None:
    table = audit.canary_battery(backdoored, IMAGES, floor_predict=backdoored, limit=100)
    assert table["flagged"] == []
    assert ("badnets/white-3-bottom-right", 3) in {(row["trigger"], row["target"]) for row in table["obeyed"]}


def test_what_model_and_control_both_obey_is_told(table: dict[str, Any]) -> None:
    assert not [row for row in table["obeyed"] if row["trigger"].startswith("badnets/white")], "the control does not"
    called, clean = np.array([[10, 90], [0, 100]]), [Rate(0, 100), Rate(45, 100)]
    (row,) = battery._obeyed(battery._rows("x/y", called, called, np.diag([100, 100]))[1:], [Rate(40, 100)])
    assert row["target"] == 1
    assert not battery._obeyed(battery._rows("x/y", called, called, np.diag([100, 100])), clean), "confused anyway"
    assert not battery._obeyed(
        battery._rows("x/y", np.diag([100, 100]), called, np.diag([100, 100])), [Rate(0, 100)] * 2
    )


def rated(asr: tuple[int, int], collapse: tuple[int, int] | None, untriggered: tuple[int, int]) -> dict[str, Any]:
    return {
        "asr": Rate(*asr).to_json(),
        "collapse": None if collapse is None else Rate(*collapse).to_json(),
        "untriggered": Rate(*untriggered).to_json(),
    }


def test_flags_need_fifty_points_and_separated_intervals() -> None:
    assert battery._is_flagged(rated((20, 20), (2, 20), (0, 20)))
    assert not battery._is_flagged(rated((2, 2), (0, 2), (0, 2))), "two images prove nothing"
    assert not battery._is_flagged(rated((95, 100), (46, 100), (0, 100))), "49 points are not 50"
    assert battery._is_flagged(rated((95, 100), None, (5, 100)))
    assert not battery._is_flagged(rated((50, 100), None, (5, 100)))
    assert not battery._is_flagged(rated((0, 0), None, (0, 0)))


def test_a_control_that_collapses_into_another_class_clears_the_model() -> None:
    """Both models fall into one class under the trigger, but not into the same: the trigger itself does it."""
    falls_into_one = np.array([[0, 90, 10], [0, 95, 5], [0, 90, 10]])
    falls_into_two = falls_into_one[:, [0, 2, 1]]
    rows = battery._rows("blend/x", falls_into_one, falls_into_two, np.diag([100, 100, 100]))
    assert rows[1]["excess"] > 0.7
    assert Rate(**rows[1]["collapse"]).value == pytest.approx(185 / 200)
    assert not battery._is_flagged(rows[1])


def test_a_class_without_others_counts_nothing() -> None:
    called = np.array([[3, 0], [0, 0]])
    rows = battery._rows("badnets/x", called, called, called)
    assert rows[0]["asr"] == {"hits": 0, "total": 0}
    assert rows[0]["excess"] == 0.0
