"""What can go wrong, and the exit code each kind ends with.

EdgekdError                5  something broke inside edgekd
├── GateFailed             1  a measured figure missed its limit, or its measurement is not valid
├── UsageError             2  bad argument, bad data, bad configuration
├── UnsafeInput            3  a file that could run code or reach outside itself
└── EnvironmentFault       4  disk, lock, missing runtime, engine

A user's mistake is one message that says what to do next and is printed without a traceback.
"""

from __future__ import annotations

import difflib
from typing import Iterable

IN_VENV = "(where the system refuses that, in a venv: python3 -m venv env)"  # after a call of pip


class EdgekdError(Exception):
    exit_code = 5


class GateFailed(EdgekdError):
    exit_code = 1


class UsageError(EdgekdError):
    exit_code = 2


class UnsafeInput(EdgekdError):
    exit_code = 3


class EnvironmentFault(EdgekdError):
    exit_code = 4


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest known word, or nothing."""
    near = nearest(str(word), known)
    return "" if near is None else f" Did you mean {near!r}?"


def nearest(word: str, known: Iterable[str], alike: float = 0.5) -> str | None:
    """The known word most like ``word``, None where none is (``alike``: from 0 to 1); case, ``-`` and ``_`` are no difference."""
    spelt = {_plain(name): name for name in known}
    near = difflib.get_close_matches(_plain(word), spelt, n=1, cutoff=alike)
    return spelt[near[0]] if near else None


def _plain(word: str) -> str:
    return word.lower().replace("_", "-")
