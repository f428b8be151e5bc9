"""A curve is put through times against length; a length with a path of its own is off it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.examine.protocol import Protocol
from tasks.examine.speed.fit import NAME, fitted, latency_frame, latency_metrics, misfit
from tasks.examine.speed.rows import Timed

LENGTHS = np.asarray([16, 64, 128, 256, 512, 1024, 2048], float)


def samples(seconds: dict[int, float], *, launches: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"lane": "int4", "digest": "4" * 64, "phase": phase, "launch": launch, "n_in": length}
        | {"cpu_ttft_s": time * rng.lognormal(0, 0.01) * slow, "ttft_s": 2 * time}
        for launch in range(launches)
        for phase, slow in (("warm", 9.0), ("length", 1.0), ("length", 1.0))
        for length, time in seconds.items()
    ]
    return pd.DataFrame(rows)


def found(rows: pd.DataFrame) -> tuple[float | None, tuple[float, float] | None]:
    empty = pd.DataFrame()
    timed = Timed(["int4"], "chat", ["chat"], samples=rows, launches=empty)
    metric = latency_metrics(timed, "int4", Protocol())[NAME]
    return metric.value, metric.ci95


def curve(lengths: np.ndarray) -> dict[int, float]:
    times = 1e-3 + 4e-5 * lengths + 3e-8 * lengths**2
    return {int(n): float(t) for n, t in zip(lengths, times, strict=True)}


def test_curve_is_found_again() -> None:
    times = np.asarray(list(curve(LENGTHS).values()))
    assert misfit(times, fitted(LENGTHS, times)) < 1e-9


def test_no_part_of_the_curve_is_negative() -> None:
    bent = 1e-3 + 1e-4 * LENGTHS**0.5  # flatter than any line
    fit = fitted(LENGTHS, bent)
    assert np.all(np.diff(fit, 2) >= -1e-12)
    assert misfit(bent, fit) > 0.1


def test_smooth_times_pass_and_a_slow_length_does_not() -> None:
    value, interval = found(samples(curve(LENGTHS)))
    assert value is not None
    assert interval is not None
    assert interval[0] <= value <= interval[1] < 0.05
    _, planted = found(samples(curve(LENGTHS) | {256: 3 * curve(LENGTHS)[256]}))
    assert planted is not None
    assert planted[0] > 0.25


def test_too_few_lengths_or_launches_are_no_curve() -> None:
    short = samples({16: 0.1, 64: 0.2, 128: 0.3})
    timed = Timed(["int4"], "chat", ["chat"], samples=short, launches=pd.DataFrame())
    assert not latency_metrics(timed, "int4", Protocol())[NAME].applies
    assert np.isnan(latency_frame(short, ["int4"])["fit_s"]).all()
    assert found(samples(curve(LENGTHS), launches=1)) == (None, None)


def test_frame_has_a_row_a_length_without_the_warm_up() -> None:
    frame = latency_frame(samples(curve(LENGTHS)), ["int4"])
    assert list(frame.columns) == ["lane", "digest", "n", "runs", "wall_s", "cpu_s", "fit_s"]
    assert frame["runs"].tolist() == [6] * 7
    assert frame["fit_s"].to_numpy() == pytest.approx(frame["cpu_s"].to_numpy(), rel=0.05)
