"""Intervals agree with scipy where it has them, cover what they promise, and are never empty."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from tasks.core.statistics import (
    cluster_quantile,
    cluster_ratio,
    nested_median,
    paired_difference,
    widest,
    wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 60), (60, 60), (58, 60), (397, 1000)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    theirs = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(k, n)


def test_paired_difference_is_the_published_formula() -> None:
    # Bonett and Price (2012): f12 = 4, f21 = 12, n = 80, computed by hand.
    up, down = 5 / 82, 13 / 82
    half = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / 82)
    assert paired_difference(4, 12, 80) == pytest.approx((up - down - half, up - down + half))


def test_paired_difference_without_any_change_still_has_width() -> None:
    low, high = paired_difference(0, 0, 850)
    assert -0.005 < low < 0 < high < 0.005
    with pytest.raises(ValueError, match="gained"):
        paired_difference(5, 6, 10)


def test_paired_difference_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    gained, lost, n = 0.02, 0.05, 200
    drawn = rng.multinomial(n, [gained, lost, 1 - gained - lost], size=2000)
    inside = 0
    for up, down, _ in drawn.tolist():
        low, high = paired_difference(up, down, n)
        inside += low <= gained - lost <= high
    assert 0.93 <= inside / 2000 <= 0.98


def test_cluster_ratio_is_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(5, 40, 120).astype(float)
    sums = sizes * rng.gamma(2.0, 0.05, 120)
    ours = cluster_ratio(sums, sizes, samples=4000, seed=0)
    theirs = bootstrap(
        (sums, sizes),
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_clusters_give_wider_intervals_than_their_members_would() -> None:
    rng = np.random.default_rng(3)
    sums = rng.normal(10, 3, 50)
    as_clusters = cluster_ratio(sums, np.full(50, 10.0), samples=2000, seed=0)
    as_members = cluster_ratio(np.repeat(sums / 10, 10), np.ones(500), samples=2000, seed=0)
    assert as_clusters is not None
    assert as_members is not None
    assert np.ptp(as_clusters) > 2.5 * np.ptp(as_members)


def test_cluster_quantile_holds_the_sample_quantile() -> None:
    rng = np.random.default_rng(4)
    values = rng.exponential(1.0, 3000)
    found = cluster_quantile(values, np.arange(3000) // 10, 0.99, samples=500, seed=0)
    assert found is not None
    low, high = found
    assert low < np.quantile(values, 0.99) < high
    assert low < -math.log(0.01) < high


def test_same_seed_gives_the_same_interval() -> None:
    data = np.random.default_rng(5).random(30)
    assert cluster_ratio(data, np.ones(30), samples=300, seed=7) == cluster_ratio(
        data, np.ones(30), samples=300, seed=7
    )


def test_nested_median_sees_the_spread_between_launches() -> None:
    rng = np.random.default_rng(6)
    within = rng.normal(0, 0.01, (3, 8))
    calm, narrow = nested_median(list(within), samples=1000, seed=0)
    moved = within + np.array([[-0.2], [0.0], [0.2]])
    _, wide = nested_median(list(moved), samples=1000, seed=0)
    assert narrow is not None
    assert wide is not None
    assert narrow[0] < calm < narrow[1]
    assert np.ptp(wide) > 5 * np.ptp(narrow)


def test_nested_median_takes_launches_of_unequal_length() -> None:
    median, found = nested_median([[1.0, 2.0, 3.0], [2.0]], samples=500, seed=0)
    assert median == 2.0
    assert found is not None
    assert 1.0 <= found[0] <= 2.0 <= found[1] <= 3.0


def test_one_cluster_gives_no_interval_rather_than_an_empty_one() -> None:
    assert cluster_ratio([0.5], [10.0], samples=300, seed=0) is None
    assert cluster_quantile([1.0, 2.0, 3.0], [0, 0, 0], 0.5, samples=300, seed=0) is None
    assert nested_median([[1.0, 2.0, 3.0]], samples=300, seed=0) == (2.0, None)


def test_widest_holds_all() -> None:
    assert widest((1.0, 1.0), (0.9, 0.99)) == (0.9, 1.0)
