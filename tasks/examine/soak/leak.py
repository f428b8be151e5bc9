"""From a series of readings to growth a generation, with an interval; nothing is measured here.

Knows no gate: what growth is too much is the policy's matter. Only whether the doubt is worth as
many generations again is decided here, against a budget of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from tasks.core.records import Measurement
from tasks.core.statistics import Interval
from tasks.examine.metrics import Metrics, count, not_applicable, not_measured
from tasks.examine.soak.soak import LEAST_BLOCKS

# An application that answers 10,000 times between two restarts can spare 64 MiB: 6,711 bytes.
LEAK_BUDGET_BYTES = 64 * 2**20 / 10_000

# Other programs on the same core slow decoding down for seconds: the medians of two tenths of
# 60 generations differed by factors of 0.6 to 1.5, in CPU seconds too (demo checkpoint, 2 shared
# cores, 2026-11). What heat does to a processor it does to its quickest generations too: of
# tenths of 1,000 the 10th percentile moved by 2 %, and by 18 % at a load of 6 on 2 cores.
LEAST_TENTH_BLOCKS = 50
UNDISTURBED = 0.1

# Each of two looks, so that together they err as often as one of 0.95 does.
LEVEL = 0.975

METRIC_NAMES = (
    "soak.heap_growth_bytes",
    "soak.anon_growth_bytes",
    "soak.thread_growth",
    "soak.descriptor_growth",
    "soak.decode_rate_ratio",
    "soak.generations",
)


@dataclass(frozen=True)
class Series:
    """Readings after the warm-up.

    Attributes:
        frame: a row a generation, with the columns of `memory.parquet`.
        cycle: generations after which the prompt lengths come round again.
        planned: generations that the plan asks for.
        how: of the measurement, in words: lengths, warm-up, looks.
        no_heap: why there are no readings of the live heap; empty when there are.
    """

    frame: pd.DataFrame
    cycle: int
    planned: int
    how: str
    no_heap: str = ""


@dataclass(frozen=True)
class Growth:
    """Bytes a generation: the Theil-Sen slope and its interval, over so many blocks."""

    slope: float
    interval: Interval
    blocks: int

    @property
    def is_open(self) -> bool:
        """Whether the interval lies on both sides of the budget."""
        low, high = self.interval
        return low <= LEAK_BUDGET_BYTES <= high


def growth(values: ArrayLike, cycle: int) -> Growth | None:
    """Fit the growth a generation through the highest reading of each cycle of lengths.

    The highest, because what a long prompt needs comes and goes with the cycle; Theil-Sen, because
    memory grows in steps. Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau",
    Journal of the American Statistical Association 63, 1968.

    Args:
        values: bytes after each generation, oldest first, shape (n,).
        cycle: generations of one block; what is left over at the end is dropped.

    Returns:
        The growth, or None below 20 blocks or where readings are missing.
    """
    highs = in_blocks(values, cycle).max(axis=1, initial=0.0)
    if len(highs) < LEAST_BLOCKS or not np.isfinite(highs).all():
        return None
    fit = stats.theilslopes(highs, np.arange(len(highs)) * cycle, LEVEL)
    interval = float(fit.low_slope), float(fit.high_slope)
    return Growth(float(fit.slope), interval, len(highs))


def in_blocks(values: ArrayLike, cycle: int) -> NDArray[np.float64]:
    """Cut a series into whole cycles, shape (blocks, cycle)."""
    series = np.asarray(values, float)
    blocks = len(series) // cycle
    return series[: blocks * cycle].reshape(blocks, cycle)


def is_open(series: Series) -> bool:
    """Tell whether as many generations again could decide what these leave open."""
    grown = [growth(series.frame[name], series.cycle) for name in ("heap_b", "anon_b")]
    return any(found.is_open for found in grown if found is not None)


def soak_metrics(series: Series, *, samples: int, seed: int) -> Metrics:
    """Summarise the readings.

    Args:
        series: after the warm-up.
        samples: resamples behind the intervals of the decode rates.
        seed: of the resampling.
    """
    frame, n = series.frame, len(series.frame)
    constant = "highest less lowest number after the warm-up; exact"
    return {
        "soak.heap_growth_bytes": not_applicable(series.no_heap)
        if series.no_heap
        else _growth("heap_b", "live heap, mallinfo2's uordblks + hblkhd", series),
        "soak.anon_growth_bytes": _growth("anon_b", "resident anonymous memory", series),
        "soak.thread_growth": count(_range(frame["threads"]), n, f"threads: {constant}"),
        "soak.descriptor_growth": count(_range(frame["fds"]), n, f"open files: {constant}"),
        "soak.decode_rate_ratio": _rate(series, samples=samples, seed=seed),
        "soak.generations": count(n, n, f"after the warm-up; {series.how}"),
    }


def _growth(column: str, what: str, series: Series) -> Measurement:
    found = growth(series.frame[column], series.cycle)
    n = len(series.frame)
    if found is None:
        return not_measured(
            f"fewer than {LEAST_BLOCKS} cycles of prompt lengths in {n} generations; {series.how}",
            n=n,
        )
    return Measurement(
        value=found.slope,
        ci95=found.interval,
        n=n,
        unit="B",
        method=f"{what}, growth a generation: Theil-Sen slope with {LEVEL:.1%} interval over "
        f"{found.blocks} blocks, each the highest of {series.cycle} generations; {series.how}",
    )


def _rate(series: Series, *, samples: int, seed: int) -> Measurement:
    """Give tokens a second in the last tenth over those in the first, of undisturbed decoding."""
    least = LEAST_TENTH_BLOCKS * series.cycle
    if series.planned // 10 < least:
        return not_applicable(
            f"a tenth of {series.planned:,} planned generations is too short to show that "
            f"decoding slows down: {least:,} are needed, as the full profile has"
        )
    times = in_blocks(series.frame["decode_s"], series.cycle)
    times = times / np.median(times, axis=0)  # of each prompt length: a longer one takes longer
    tenth = len(times) // 10
    if tenth < LEAST_TENTH_BLOCKS:
        return not_measured(f"a tenth is {tenth} blocks; {series.how}", n=times.size)
    first, last = times[:tenth].ravel(), times[-tenth:].ravel()
    drawn = stats.bootstrap(
        (first, last), _slowing, n_resamples=samples, method="percentile", rng=seed
    ).confidence_interval
    return Measurement(
        value=float(_slowing(first, last)),
        ci95=(float(drawn.low), float(drawn.high)),
        n=first.size + last.size,
        method="tokens decoded a second, last tenth over first, where least disturbed: 10th "
        f"percentile of {first.size:,} generations each; bootstrap; {series.how}",
    )


def _slowing(
    first: NDArray[np.float64], last: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    # Of equal numbers of tokens, rates are as times turned over.
    before, after = (np.quantile(times, UNDISTURBED, axis=axis) for times in (first, last))
    return np.asarray(before / after)


def _range(values: pd.Series[int]) -> int:
    return int(values.max() - values.min())
