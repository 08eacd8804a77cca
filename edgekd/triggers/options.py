"""Checked options of trigger families: numbers with bounds, names to choose from, places on the image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.errors import UsageError, did_you_mean

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


@dataclass(frozen=True)
class Number:
    """A number in [low, high]; ``whole`` allows integers only."""

    default: float
    low: float
    high: float
    whole: bool = False

    def check(self, name: str, value: Any) -> float | int:
        right_type = isinstance(value, int if self.whole else (int, float)) and not isinstance(value, bool)
        if not right_type or not math.isfinite(value) or not self.low <= value <= self.high:
            kind = "a whole number" if self.whole else "a number"
            raise UsageError(f"{name} is {value!r}, expected {kind} from {self.low:g} to {self.high:g}.")
        return value if self.whole else float(value)


@dataclass(frozen=True)
class Choice:
    """One of ``names``."""

    default: str
    names: tuple[str, ...]

    def check(self, name: str, value: Any) -> str:
        if value not in self.names:
            raise UsageError(
                f"{name} is {value!r}, expected one of {', '.join(self.names)}.{did_you_mean(value, self.names)}"
            )
        return str(value)


@dataclass(frozen=True)
class Switch:
    """True or false."""

    default: bool

    def check(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise UsageError(f"{name} is {value!r}, expected true or false.")
        return value


@dataclass(frozen=True)
class Place:
    """A corner by name, or [row, column] of the upper left pixel."""

    default: str | tuple[int, int]
    names: tuple[str, ...] = CORNERS

    def check(self, name: str, value: Any) -> str | tuple[int, int]:
        if isinstance(value, str):
            return Choice("", self.names).check(name, value)
        whole = isinstance(value, list | tuple) and all(type(part) is int and part >= 0 for part in value)
        if not whole or len(value) != 2:
            raise UsageError(
                f"{name} is {value!r}, expected [row, column] from 0 on, or one of {', '.join(self.names)}."
            )
        return value[0], value[1]


Option = Number | Choice | Switch | Place


def resolve(what: str, given: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """Every option of ``options``, checked, defaults filled in; raises UsageError for unknown keys and bad values."""
    known_only(what, given, options)
    return {
        name: option.check(f"{name} of {what}", given[name]) if name in given else option.default
        for name, option in options.items()
    }


def known_only(what: str, given: Iterable[Any], known: Iterable[str], kind: str = "option") -> None:
    """Raise UsageError for the first key that is not known, with the nearest one that is."""
    known = tuple(known)
    for key in given:
        if key not in known:
            raise UsageError(
                f"{what} has an unknown {kind} {key!r}; known are {', '.join(known)}.{did_you_mean(key, known)}"
            )
