"""Measurements as records: shares, paired differences, counts, and the lack of one.

Knows how an interval is made for each kind of number; what was counted is the callers' matter.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from tasks.core.records import Measurement
from tasks.core.statistics import LEVEL, Interval, paired_difference, wilson

Metrics = dict[str, Measurement]


def at_level(level: float) -> str:
    """Say the level of an interval where it is not the usual one."""
    return "" if level == LEVEL else f" at {level:.1%}"


def count(value: int, n: int, method: str) -> Measurement:
    """Give an exact count out of n."""
    return Measurement(value=float(value), n=n, unit="1", method=method)


def share(flags: ArrayLike, method: str, *, level: float = LEVEL) -> Measurement:
    """Give the share of true flags with its Wilson interval."""
    seen = np.asarray(flags, bool)
    successes = int(seen.sum())
    return Measurement(
        value=successes / len(seen),
        ci95=wilson(successes, len(seen), level=level),
        n=len(seen),
        method=f"{method}; Wilson interval{at_level(level)}",
    )


def paired_change(
    before: ArrayLike, after: ArrayLike, method: str, *, level: float = LEVEL
) -> Measurement:
    """Give share(after) - share(before) on the same items with the Bonett-Price interval."""
    first, second = np.asarray(before, bool), np.asarray(after, bool)
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    return Measurement(
        value=(gained - lost) / len(first),
        ci95=paired_difference(gained, lost, len(first), level=level),
        n=len(first),
        method=f"{method}; paired, Bonett-Price adjusted Wald interval{at_level(level)}",
    )


def paired_ratio(
    before: ArrayLike, after: ArrayLike, method: str, *, level: float = LEVEL
) -> Measurement:
    """Give share(after) / share(before) on the same items.

    The interval is that of the paired difference, divided by the share before: it takes that
    share as known, and is never zero-width.
    """
    first = np.asarray(before, bool)
    base = float(first.mean())
    if base == 0:
        return unmeasurable(f"{method}: the reference's share is 0", n=len(first))
    change = paired_change(before, after, method, level=level)
    if change.value is None or change.ci95 is None:
        return change
    low, high = change.ci95
    return Measurement(
        value=1 + change.value / base,
        ci95=(1 + low / base, 1 + high / base),
        n=len(first),
        method=f"{method}; from the paired Bonett-Price interval{at_level(level)} over the "
        "reference's share",
    )


def with_interval(
    value: float,
    interval: Interval | None,
    *,
    n: int,
    method: str,
    clusters: str,
    unit: str = "1",
    final: bool = False,
) -> Measurement:
    """Give an estimate with its bootstrapped interval, or no value where there is none.

    A value alone would be taken for an exact count.

    Args:
        value: the estimate.
        interval: None below two clusters.
        n: observations.
        method: how it was measured and how the interval was made.
        clusters: what the bootstrap draws, in the singular, such as `question`.
        unit: of the value.
        final: True where another try has no more clusters to draw from.
    """
    if interval is None:
        reason = f"one {clusters} gives no interval; {method}"
        return Measurement(value=None, n=n, unit=unit, method=reason, final=final)
    return Measurement(value=value, ci95=interval, n=n, unit=unit, method=method)


def not_measured(reason: str, *, n: int = 0) -> Measurement:
    """Give a measurement without a value, which never passes a gate; another try may give one."""
    return Measurement(value=None, n=n, method=reason)


def unmeasurable(reason: str, *, n: int = 0) -> Measurement:
    """Give the same where another try would give no value, either (decision 0008)."""
    return Measurement(value=None, n=n, method=reason, final=True)


def none_measured(names: Iterable[str], reason: str) -> Metrics:
    """Give the same lack of a measurement under several names."""
    return {name: not_measured(reason) for name in names}


def not_applicable(reason: str) -> Measurement:
    """Give a measurement of what is not there to be measured, whatever the variant is like."""
    return Measurement(value=None, n=0, method=reason, applies=False)
