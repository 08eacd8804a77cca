"""A row's figures over its seeds, and differences between two rows over shared seeds, with a 95 % interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.main_job_table import spread as over_seeds
from edgekd.report.transferability import beside

# Student's t at 97.5 %, by degrees of freedom; between two the longer interval
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 8: 2.306, 10: 2.228, 14: 2.145, 20: 2.086, 30: 2.042, 60: 2.0}  # fmt: skip
Figures = Mapping[int, float]  # by seed


class Spread(NamedTuple):
    """Standard deviation of paired differences, and the degrees of freedom it stands on."""

    deviation: float
    freedom: int


class Difference(NamedTuple):
    """Mean paired difference in points; half: of its 95 % interval, None where there are too few seeds for one."""

    mean: float
    half: float | None
    seeds: int

    def holds(self, value: float) -> bool:
        """Whether the interval has that value in it; without an interval everything may be."""
        return self.half is None or abs(self.mean - value) <= self.half

    @property
    def low(self) -> float:
        """The interval's lower end; without an interval there is none."""
        return -math.inf if self.half is None else self.mean - self.half

    @property
    def high(self) -> float:
        return math.inf if self.half is None else self.mean + self.half

    def __str__(self) -> str:
        if self.half is None:
            return f"{self.mean:+.2f}{beside(self.seeds)}"
        shown = f"{self.mean:+.2f} [{self.mean - self.half:+.2f} to {self.mean + self.half:+.2f}]"
        return (shown if self.holds(0) else f"**{shown}**") + beside(self.seeds)


def values(results: Mapping[int, Mapping[str, Any]], key: str = "acc") -> dict[int, float]:
    """One figure of a row by seed; seeds that have none, as diverged ones, are left out."""
    return {seed: float(one[key]) for seed, one in sorted(results.items()) if one.get(key) is not None}


def acc(results: Mapping[int, Mapping[str, Any]]) -> str:
    """ACC over seeds, and how many of them diverged."""
    diverged, figures = sum("diverged" in one for one in results.values()), values(results)
    if diverged and not figures:
        return "**diverged**"
    return over_seeds(figures.values()) + (f", {diverged} of {len(results)} **diverged**" if diverged else "")


def gaps(row: Figures, other: Figures) -> list[float]:
    return [figure - other[seed] for seed, figure in row.items() if seed in other]


def paired(row: Figures, other: Figures, spread: Spread | None = None) -> Difference | None:
    """Over the seeds that both have, None without any; spread: that of a whole table, in place of these seeds' own."""
    found = gaps(row, other)
    if not found:
        return None
    spread = spread or pooled([(row, other)])
    half = t(spread.freedom) * spread.deviation / len(found) ** 0.5 if spread and len(found) > 1 else None
    return Difference(statistics.fmean(found), half, len(found))


def pooled(pairs: Iterable[tuple[Figures, Figures]]) -> Spread | None:
    """The spread that all pairs of rows have in common, if they do; None where no pair has two seeds."""
    found = [each for each in (gaps(*pair) for pair in pairs) if len(each) > 1]
    freedom = sum(len(each) - 1 for each in found)
    if not freedom:
        return None
    squares = sum((len(each) - 1) * statistics.variance(each) for each in found)
    return Spread((squares / freedom) ** 0.5, freedom)


def crossed(rows: Iterable[Figures]) -> Spread | None:
    """The spread of the difference of any two of these rows: √2 · that of what row and seed together leave unexplained.

    For rows that are all held against one of them, whose noise is in every difference: ``pooled`` would take it for as
    many independent ones. By least squares, so that rows may lack seeds; None where nothing is left to estimate it from.
    """
    cells = [(number, seed, figure) for number, row in enumerate(rows) for seed, figure in row.items()]
    if not cells:
        return None
    of_row, of_seed, figures = (np.array(column) for column in zip(*cells, strict=True))
    design = np.hstack([of_row[:, None] == np.unique(of_row), of_seed[:, None] == np.unique(of_seed)]).astype(float)
    fitted, _, rank, _ = np.linalg.lstsq(design, figures, rcond=None)
    freedom = len(figures) - int(rank)
    squares = float(np.square(figures - design @ fitted).sum())
    return Spread((2 * squares / freedom) ** 0.5, freedom) if freedom else None


def mcnemar(first: Iterable[int], second: Iterable[int]) -> tuple[int, int, float]:
    """Images on which one of two rows does better, on which the other does, and McNemar's exact p, two-sided.

    first, second: integers whose bits are the images, one a seed, paired. An image counts once, for the row that keeps it
    in more of the seeds: seeds of one image are no independent images. Says nothing of other seeds.
    """
    pairs = list(zip(first, second, strict=True))
    lengths = range(max((a | b).bit_length() for a, b in pairs) if pairs else 0)
    better = [sum((a >> bit & 1) - (b >> bit & 1) for a, b in pairs) for bit in lengths]
    ours, theirs = sum(one > 0 for one in better), sum(one < 0 for one in better)
    tail = sum(math.comb(ours + theirs, k) for k in range(min(ours, theirs) + 1))
    return ours, theirs, min(1.0, 2 * tail / 2 ** (ours + theirs))


def t(freedom: int) -> float:
    return T[max(known for known in T if known <= freedom)]
