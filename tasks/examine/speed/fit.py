"""Time to first token against prompt length: a + b n + c n^2, and how far off that is.

A length far off the curve has a path of its own in the engine; times in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

from tasks.core.statistics import LEVEL, widest
from tasks.examine.metrics import Metrics, not_applicable, with_interval
from tasks.examine.protocol import Protocol
from tasks.examine.speed.rows import LENGTH, Timed
from tasks.examine.speed.workload import LEAST_LENGTHS

NAME = "lengths.latency_misfit"
_SAMPLES = 200  # refits behind the interval
_LEAST_LAUNCHES = 2
_METHOD = (
    "largest |ln(T / fit)| over {lengths} prompt tokens; T = median CPU time to the first token, "
    "fit a + b n + c n^2 with a, b, c >= 0 and weights 1/T; bootstrap over the runs of each length"
)


def fitted(lengths: ArrayLike, seconds: ArrayLike) -> NDArray[np.float64]:
    """Fit a + b n + c n^2 with no negative part to times, by their relative errors.

    Args:
        lengths: shape (n,).
        seconds: shape (n,), positive.

    Returns:
        The curve at each length, shape (n,).
    """
    n, times = np.asarray(lengths, float), np.asarray(seconds, float)
    # Scaled to the longest, or the columns differ by 10^6 and the smallest part is lost.
    powers = np.vander(n / n.max(), 3, increasing=True)
    parts, _ = nnls(powers / times[:, None], np.ones_like(times))
    return np.asarray(powers @ parts, float)


def misfit(seconds: ArrayLike, fit: ArrayLike) -> float:
    """Give the largest |ln(seconds / fit)|."""
    return float(np.abs(np.log(np.asarray(seconds, float) / np.asarray(fit, float))).max())


def latency_frame(samples: pd.DataFrame, lanes: Sequence[str]) -> pd.DataFrame:
    """Give medians and fit by lane and length: lane, digest, n, runs, wall_s, cpu_s, fit_s."""
    runs = samples[(samples["phase"] == LENGTH) & samples["lane"].isin(list(lanes))]
    grouped = runs.groupby(["lane", "digest", "n_in"], sort=True)
    table = grouped.agg(
        runs=("ttft_s", "size"), wall_s=("ttft_s", "median"), cpu_s=("cpu_ttft_s", "median")
    )
    table = table.reset_index().rename(columns={"n_in": "n"})
    table["fit_s"] = math.nan
    for _, rows in table.groupby("lane"):
        if len(rows) >= LEAST_LENGTHS:
            table.loc[rows.index, "fit_s"] = fitted(rows["n"], rows["cpu_s"])
    return table


def latency_metrics(timed: Timed, lane: str, protocol: Protocol) -> Metrics:
    """Say how far the times of one variant are from the curve through them."""
    samples = timed.samples
    runs = samples[(samples["phase"] == LENGTH) & (samples["lane"] == lane)]
    by_length = {int(str(n)): rows for n, rows in runs.groupby("n_in")}
    if len(by_length) < LEAST_LENGTHS:
        return {NAME: not_applicable(f"{len(by_length)} lengths are too few for a curve")}
    times = [rows["cpu_ttft_s"].to_numpy(float) for rows in by_length.values()]
    lengths = np.asarray(list(by_length), float)
    medians = [float(np.median(found)) for found in times]
    estimate = misfit(medians, fitted(lengths, medians))
    interval = None
    if runs["launch"].nunique() >= _LEAST_LAUNCHES:
        # A largest of noisy parts is drawn too high: the estimate itself may be below all of them.
        interval = widest(_interval(lengths, times, protocol.seed), (estimate, estimate))
    return {
        NAME: with_interval(
            estimate,
            interval,
            n=len(runs),
            method=_METHOD.format(lengths=", ".join(map(str, by_length))),
            clusters="launch",
        )
    }


def _interval(
    lengths: NDArray[np.float64], times: Sequence[NDArray[np.float64]], seed: int
) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(_SAMPLES):
        medians = [float(np.median(draw.choice(seen, len(seen)))) for seen in times]
        found.append(misfit(medians, fitted(lengths, medians)))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)
