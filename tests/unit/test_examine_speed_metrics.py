"""Timed rows become medians and paired ratios; a busy machine and a lying clock are told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.core.records import Evidence
from tasks.examine.protocol import Protocol
from tasks.examine.speed_metrics import CONTROL, contention, speed_evidence

PROTOCOL = Protocol(bootstrap_samples=300)
DIGESTS = {"int4": "4" * 64, "int8": "8" * 64, CONTROL: "4" * 64}


def samples(*, slower_control: float = 1.0, pressure: float | None = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    found = []
    for launch in range(3):
        for number in range(-1, 8):
            weather = rng.lognormal(0, 0.3)  # what all lanes of one round share
            for lane, speed in (("int4", 1.0), ("int8", 1.5), (CONTROL, slower_control)):
                second = weather * speed * rng.lognormal(0, 0.02) * (9 if number < 0 else 1)
                row = {"lane": lane, "digest": DIGESTS[lane], "launch": launch, "round": number}
                times = {
                    "prefill_s": 0.1, "ttft_s": 0.2, "decode_s": 0.31, "e2e_s": 0.51,
                    "cpu_ttft_s": 0.1, "cpu_decode_s": 0.31,
                }  # fmt: skip
                row |= {name: share * second for name, share in times.items()}
                row |= {"phase": "run" if number >= 0 else "warm-up", "new_tokens": 32}
                row |= {"prompt_tokens": 64, "cpu_pressure": pressure, "load_average": 0.5}
                row |= {"peak_rss_bytes": 900 + launch + number}
                found.append(row)
    return pd.DataFrame(found)


def launches() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"lane": lane, "launch": launch, "load_peak_rss_bytes": 500 + launch}
            for launch in range(3)
            for lane in DIGESTS
        ]
    )


def evidence(lane: str, rows: pd.DataFrame) -> Evidence:
    return speed_evidence(lane, "int4", rows, launches(), PROTOCOL)


def test_ratio_is_paired_so_that_shared_weather_cancels() -> None:
    metrics = evidence("int8", samples()).metrics
    low, high = metrics["speed.decode_time_ratio"].ci95 or (0.0, 0.0)
    assert low < 1.5 < high
    assert high - low < 0.1


def test_warm_ups_are_not_counted() -> None:
    metrics = evidence("int4", samples()).metrics
    assert metrics["speed.decode_tokens_per_s"].n == 24
    assert metrics["speed.decode_tokens_per_s"].value == pytest.approx(100, rel=0.4)
    assert metrics["speed.cpu_s_per_token"].value == pytest.approx(0.01, rel=0.4)


def test_cpu_seconds_and_seconds_are_of_the_same_tokens() -> None:
    rows = samples()
    metrics = evidence("int4", rows.assign(cpu_decode_s=2 * rows["decode_s"])).metrics
    rate, cost = metrics["speed.decode_tokens_per_s"].value, metrics["speed.cpu_s_per_token"].value
    assert rate is not None
    assert cost is not None
    assert rate * cost == pytest.approx(2.0, rel=0.005)  # two cores were busy


def test_one_launch_gives_no_interval_and_so_no_value() -> None:
    rows = samples()
    metrics = evidence("int8", rows[rows["launch"] == 0]).metrics
    for name in ("speed.ttft_s", "speed.aa_ratio", "speed.cpu_ratio"):
        assert metrics[name].value is None
        assert metrics[name].method.startswith("one launch gives no interval")


def test_control_is_one_on_a_fair_clock_and_not_on_a_lying_one() -> None:
    fair = evidence("int4", samples()).metrics["speed.aa_ratio"].ci95
    unfair = evidence("int4", samples(slower_control=1.3)).metrics["speed.aa_ratio"].ci95
    assert fair is not None
    assert unfair is not None
    assert 0.95 < fair[0] < 1 < fair[1] < 1.05
    assert unfair[0] > 1.2


def test_memory_is_that_of_the_first_run_in_a_fresh_process() -> None:
    metrics = evidence("int4", samples()).metrics
    assert metrics["memory.load_peak_rss_bytes"].value == 502
    assert metrics["memory.peak_rss_bytes"].value == 901
    assert metrics["memory.peak_rss_bytes"].n == 3


def test_busy_machine_is_named() -> None:
    assert contention(samples()) == []
    assert "waited for a CPU 40 %" in contention(samples(pressure=40.0))[0]


def test_without_pressure_figures_the_load_average_decides() -> None:
    rows = samples(pressure=None)
    assert contention(rows) == []
    assert "load average 500" in contention(rows.assign(load_average=500.0))[0]
