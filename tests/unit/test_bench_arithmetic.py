"""Ratios of one round, medians with their spread, slopes; and what is missing stays missing."""

from __future__ import annotations

import math

import pytest

from benchmarks.arithmetic import Figure, difference, ratio, rounded, slope


def test_figure_is_the_median_with_least_and_greatest() -> None:
    figure = Figure.of({0: 3.0, 1: 1.0, 2: 2.0, 3: 10.0, 4: 2.5})
    assert (figure.value, figure.low, figure.high, figure.n) == (2.5, 1.0, 10.0, 5)


def test_ratio_is_taken_within_a_round() -> None:
    # The second round was twice as slow for both: the ratio of medians would not know.
    slow, fast = {0: 10.0, 1: 40.0, 2: 30.0}, {0: 5.0, 1: 20.0, 2: 10.0}
    found = ratio(slow, fast)
    assert found.value == 2.0
    assert (found.low, found.high) == (2.0, 3.0)


def test_round_that_one_lane_lacks_does_not_count() -> None:
    assert ratio({0: 1.0, 1: 9.0}, {0: 2.0}).n == 1
    assert difference({0: 5.0, 1: 9.0}, {1: 2.0}).value == 7.0


@pytest.mark.parametrize(
    "found",
    [
        Figure.of({}),
        Figure.of({0: math.nan, 1: math.inf}),
        ratio({0: 1.0}, {1: 1.0}),
        ratio({0: 1.0}, {0: 0.0}),
        difference({}, {0: 1.0}),
        slope({}),
        slope({1.0: {0: 1.0}, 2.0: {0: 2.0}}),
    ],
)
def test_nothing_to_count_is_not_measured(found: Figure) -> None:
    assert found.value is None
    assert found.in_words() == "not measured"
    assert found.reason


def test_reason_is_kept() -> None:
    assert ratio({}, {}, "there is no compiler").reason == "there is no compiler"


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_slope_finds_the_power(power: float) -> None:
    sizes = (0.1, 0.5, 1.0, 3.0)
    values = {size: {number: (number + 1) * size**power for number in range(3)} for size in sizes}
    assert slope(values).value == pytest.approx(power)


def test_slope_needs_all_sizes_in_a_round() -> None:
    values = {1.0: {0: 1.0, 1: 1.0}, 2.0: {0: 2.0, 1: 4.0}, 4.0: {1: 16.0}}
    found = slope(values)
    assert found.n == 1
    assert found.value == pytest.approx(2.0)


def test_scaling_keeps_low_below_high() -> None:
    figure = Figure(2.0, 1.0, 3.0, 5).scaled(-1)
    assert figure.low < figure.high


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (1234.6, "1,235"),
        (0.012345, "0.0123"),
        (9.87, "9.87"),
        (-0.5, "-0.500"),
        (math.nan, "not measured"),
        (math.inf, "not measured"),
    ],
)
def test_numbers_have_three_digits(value: float, words: str) -> None:
    assert rounded(value) == words


def test_one_round_says_that_it_is_one() -> None:
    assert Figure.of({0: 2.0}).in_words() == "2.00 (1 round)"
