"""Medians, ratios of one round, and slopes, each with its spread. Numbers in, figures out.

Two lanes are compared round by round: what disturbs a machine for a minute disturbs both, and the
ratio keeps less of it than the ratio of two medians.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.records import NOT_MEASURED

ByRound = Mapping[int, float]

LEAST_SIZES = 3  # a line through two points has no misfit to see


@dataclass(frozen=True)
class Figure:
    """A number that was measured, or the reason why there is none.

    Attributes:
        value: median over the rounds; None where it was not measured.
        low, high: least and greatest of the rounds. Of five, they hold the true median between
            them 94 times in 100.
        n: rounds.
        reason: why there is no value.
    """

    value: float | None
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    reason: str = ""

    @classmethod
    def missing(cls, reason: str) -> Figure:
        """Give a figure that was not measured."""
        return cls(None, reason=reason or NOT_MEASURED)

    @classmethod
    def of(cls, values: ByRound, reason: str = "") -> Figure:
        """Give the median over rounds; what is no finite number does not count as a round."""
        found = [value for value in values.values() if math.isfinite(value)]
        if not found:
            return cls.missing(reason)
        return cls(median(found), min(found), max(found), len(found))

    def scaled(self, factor: float) -> Figure:
        """Give it in another unit."""
        if self.value is None:
            return self
        low, high = sorted((self.low * factor, self.high * factor))
        return Figure(self.value * factor, low, high, self.n)

    def in_words(self, digits: int = 3) -> str:
        """Show it with its spread."""
        if self.value is None:
            return NOT_MEASURED
        middle = rounded(self.value, digits)
        if self.n < 2:  # one round has no spread
            return f"{middle} (1 round)"
        return f"{middle} [{rounded(self.low, digits)}, {rounded(self.high, digits)}]"


def rounded(value: float, digits: int = 3) -> str:
    """Show a number with so many significant digits, without an exponent."""
    if not math.isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def ratio(over: ByRound, under: ByRound, reason: str = "") -> Figure:
    """Compare two lanes: the median of the ratios of the rounds that have both."""
    both = [number for number in over if number in under and under[number] > 0]
    return Figure.of({number: over[number] / under[number] for number in both}, reason)


def difference(first: ByRound, second: ByRound, reason: str = "") -> Figure:
    """Compare two lanes: the median of the differences of the rounds that have both."""
    both = [number for number in first if number in second]
    return Figure.of({number: first[number] - second[number] for number in both}, reason)


def slope(by_size: Mapping[float, ByRound], reason: str = "") -> Figure:
    """Fit log(y) against log(size) in each round that has all sizes, and give the median slope.

    1 is growth in proportion; a constant part makes it less.

    Args:
        by_size: size to values by round, all positive.
        reason: said where there is nothing to fit.
    """
    sizes = sorted(size for size, values in by_size.items() if values)
    if len(sizes) < LEAST_SIZES:
        return Figure.missing(reason or f"{len(sizes)} sizes, {LEAST_SIZES} are the least")
    rounds = set.intersection(*(set(by_size[size]) for size in sizes))
    slopes = {}
    for number in rounds:
        values = [by_size[size][number] for size in sizes]
        if min(values) > 0:
            slopes[number] = float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
    return Figure.of(slopes, reason or "no round has all sizes")
