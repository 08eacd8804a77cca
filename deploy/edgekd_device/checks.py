"""What the fields of a record may hold: a report or a bundle may be anybody's, and is held against this before use."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from typing import Any, Callable, Mapping

from .errors import UsageError

Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def whole(value: Any) -> bool:
    """A count; a bool is an int to Python, and none here."""
    return type(value) is int and 0 <= value < 1 << 63


def positive(value: Any) -> bool:
    """A count of something that must have been there."""
    return whole(value) and value > 0


def finite(value: Any) -> bool:
    """A number that can be printed and compared; JSON's whole numbers have no end, and those too long are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value)


def amount(value: Any) -> bool:
    """A time, a power, a size: never below 0."""
    return bool(finite(value) and value >= 0)


def rate(value: Any) -> bool:
    """Counts of a `metrics.Rate`; 0 of 0 is no measurement, which a record leaves out instead."""
    return (
        isinstance(value, dict)
        and set(value) == {"hits", "total"}
        and all(map(whole, value.values()))
        and 0 <= value["hits"] <= value["total"] > 0
    )


def mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(map(text, value))


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def several(check: Check, count: int | None = None) -> Check:
    """A list (a tuple where the record never was JSON) of what ``check`` accepts, ``count`` of them."""
    return lambda value: isinstance(value, (list, tuple)) and all(map(check, value)) and count in (None, len(value))


def named(check: Check) -> Check:
    """A mapping from names to what ``check`` accepts."""
    return lambda value: mapping(value) and all(map(check, value.values()))


def hold(kind: Any, value: Any, table: Mapping[str, Check], at: str = "") -> dict[str, Any]:
    """The fields of ``value``, one for one those of the dataclass ``kind``; raises UsageError naming the first wrong one.

    at: where in the record ``value`` stands, in front of the field's name. Fields with a default may be absent.
    """
    if not mapping(value):
        raise wrong(at.rstrip(".") or kind.__name__, value)
    for field in dataclasses.fields(kind):
        if field.name in value:
            if not table[field.name](value[field.name]):
                raise wrong(at + field.name, value[field.name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"The record does not hold what it should: {at + field.name!r} is missing.")
    unknown = sorted(set(value) - set(table))
    if unknown:
        raise UsageError(f"The record does not hold what it should: {at + unknown[0]!r:.100} is unknown here.")
    return dict(value)


def wrong(name: str, value: Any) -> UsageError:
    """The refusal of one field; what it holds is shown cut short, in depth too, and with control characters escaped."""
    shown = reprlib.repr(value)
    return UsageError(f"The record does not hold what it should: look at {name!r:.100}, which is {shown:.60}.")
