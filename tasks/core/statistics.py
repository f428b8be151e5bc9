"""Intervals: shares, paired differences, ratios over clustered and over timed observations.

Numbers in, numbers out; what they were measured on is not known here. All intervals are two-sided.
A bootstrap has no interval below two clusters: drawing the same one again shows no spread at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]

LEVEL = 0.95
LEAST_CLUSTERS = 2
_BOOTSTRAP_CELLS = 4_000_000  # resampling weights held at once: 32 MB


def wilson(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """Give the Wilson score interval of a share; not zero-width, even at 0 or n successes.

    Raises:
        ValueError: n is not positive or successes lie outside 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    z = _quantile(level)
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # Exact at the ends, where rounding would leave 0.9999999999999998.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def paired_difference(gained: int, lost: int, n: int, *, level: float = LEVEL) -> Interval:
    """Give the interval of a difference between two shares that were seen on the same items.

    The adjusted Wald interval of Bonett and Price, "Adjusted Wald Confidence Interval for a
    Difference of Binomial Proportions Based on Paired Data", Journal of Educational and
    Behavioral Statistics 37(4), 2012: one item is added to each discordant cell, so that it keeps
    its coverage on small samples and is never zero-width.

    Args:
        gained: items where only the second measurement succeeds.
        lost: items where only the first one does.
        n: all items.
        level: coverage.

    Returns:
        Bounds of (second share - first share).

    Raises:
        ValueError: the counts do not fit together.
    """
    if n <= 0 or min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n}")
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    difference = up - down
    half = _quantile(level) * math.sqrt((up + down - difference**2) / (n + 2))
    return max(-1.0, difference - half), min(1.0, difference + half)


def cluster_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    samples: int,
    seed: int,
    level: float = LEVEL,
) -> Interval | None:
    """Bootstrap sum(numerators) / sum(denominators) over clusters, such as questions.

    Tokens of one answer are not independent: taking them so made intervals 1.6 to 2.2 times too
    narrow (measured on text windows), so whole clusters are drawn.

    Args:
        numerators: one sum a cluster, shape (clusters,).
        denominators: likewise, such as the number of tokens.
        samples: resamples.
        seed: of the resampling.
        level: coverage.

    Returns:
        The interval, or None below two clusters.
    """
    table = np.stack([np.asarray(numerators, float), np.asarray(denominators, float)], axis=1)
    if len(table) < LEAST_CLUSTERS:
        return None
    drawn = _weighted_sums(table, samples, np.random.default_rng(seed))
    return _percentiles(drawn[:, 0] / drawn[:, 1], level)


def cluster_quantile(
    values: ArrayLike,
    clusters: ArrayLike,
    quantile: float,
    *,
    samples: int,
    seed: int,
    level: float = LEVEL,
) -> Interval | None:
    """Bootstrap a quantile of values that come in clusters, drawing whole clusters.

    Args:
        values: shape (n,).
        clusters: cluster of each value, 0..k-1, shape (n,).
        quantile: 0..1.
        samples: resamples.
        seed: of the resampling.
        level: coverage.

    Returns:
        The interval, or None below two clusters.
    """
    order = np.argsort(np.asarray(values, float))
    ascending = np.asarray(values, float)[order]
    owners = np.asarray(clusters)[order]
    count = int(owners.max()) + 1
    if count < LEAST_CLUSTERS:
        return None
    rng = np.random.default_rng(seed)
    drawn = np.empty(samples)
    for sample in range(samples):
        weights = np.bincount(rng.integers(0, count, count), minlength=count)[owners].cumsum()
        drawn[sample] = ascending[np.searchsorted(weights, quantile * weights[-1])]
    return _percentiles(drawn, level)


def nested_median(
    groups: Sequence[ArrayLike], *, samples: int, seed: int, level: float = LEVEL
) -> tuple[float, Interval | None]:
    """Give the median of timings, bootstrapped over launches, then over rounds in a launch.

    Rounds of one launch share its luck (memory layout, clock, neighbours): within one launch the
    interval of an A/A ratio was [0.92, 0.98], so launches are drawn first.

    Args:
        groups: the observations of each launch, or their logarithms for a ratio.
        samples: resamples.
        seed: of the resampling.
        level: coverage.

    Returns:
        The median over all observations, and its interval, or None below two launches.
    """
    launches = [np.asarray(group, float) for group in groups]
    median = float(np.median(np.concatenate(launches)))
    if len(launches) < LEAST_CLUSTERS:
        return median, None
    sizes = np.asarray([len(launch) for launch in launches])
    table = np.full((len(launches), sizes.max()), np.nan)
    for row, launch in zip(table, launches, strict=True):
        row[: len(launch)] = launch
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, len(launches), (samples, len(launches)))
    rounds = (rng.random((*picked.shape, sizes.max())) * sizes[picked, None]).astype(int)
    drawn = table[picked[..., None], rounds]
    # A shorter launch gives as many draws as it has rounds, not as the longest one has.
    drawn[np.arange(sizes.max()) >= sizes[picked, None]] = np.nan
    medians = np.nanmedian(drawn.reshape(samples, -1), axis=1)
    return median, _percentiles(medians, level)


def widest(*intervals: Interval) -> Interval:
    """Give the smallest interval that holds all of them."""
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def mapped(interval: Interval, function: Callable[[float], float]) -> Interval:
    """Carry an interval through an increasing function."""
    return function(interval[0]), function(interval[1])


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def _weighted_sums(
    table: NDArray[np.float64], samples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    clusters = len(table)
    block = max(1, _BOOTSTRAP_CELLS // clusters)
    even = np.full(clusters, 1 / clusters)
    sizes = [min(block, samples - start) for start in range(0, samples, block)]
    return np.concatenate([rng.multinomial(clusters, even, size) @ table for size in sizes])


def _percentiles(drawn: NDArray[np.float64], level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
