"""From timed runs to metrics: medians, paired ratios, and whether the clock was fair.

Works on the rows that `speed_child.py` collected; nothing is timed here.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import psutil

from tasks.core.records import Evidence, Measurement
from tasks.core.statistics import Interval, mapped, nested_median
from tasks.examine.metrics import Metrics, with_interval
from tasks.examine.protocol import Protocol

CONTROL = "control"

# A machine that others use too: for a tenth of the time somebody waits for a CPU or, where the
# kernel does not tell, more threads want to run than there are cores.
CONTENDED_PRESSURE = 10.0
_MEDIAN = "median of runs, interleaved with the other variants; bootstrap over launches and rounds"
_RATIO = "median ratio, paired by round; bootstrap over launches and rounds"


def speed_evidence(
    lane: str, base: str, samples: pd.DataFrame, launches: pd.DataFrame, protocol: Protocol
) -> Evidence:
    """Summarise the runs of one variant.

    Args:
        lane: its lane in the rows.
        base: the lane that ratios refer to, the one the control lane repeats.
        samples: a row a run, warm-ups among them.
        launches: a row a started worker.
        protocol: for the bootstrap.
    """
    runs = samples[samples["phase"] == "run"]
    metrics = {
        **_absolute(runs[runs["lane"] == lane], protocol),
        "speed.aa_ratio": _ratio(runs, CONTROL, base, "e2e_s", protocol),
        **_memory(lane, samples, launches),
    }
    if lane != base:
        metrics |= _ratios(runs, lane, base, protocol)
    digest = str(runs.loc[runs["lane"] == lane, "digest"].iloc[0])
    return Evidence(suite="speed", subject=digest, metrics=metrics, notes=contention(runs))


def contention(runs: pd.DataFrame) -> list[str]:
    """Say so in one note if the machine was busy with other things, else give no note."""
    if runs["cpu_pressure"].notna().any():
        pressure = float(runs["cpu_pressure"].median())
        busy = pressure > CONTENDED_PRESSURE
        seen = f"somebody waited for a CPU {pressure:.0f} % of the time"
    else:
        load, cores = float(runs["load_average"].median()), psutil.cpu_count() or 1
        busy = load > cores
        seen = f"load average {load:.1f} on {cores} cores"
    if not busy:
        return []
    return [f"contended: {seen}; trust ratios and CPU seconds, not absolute speeds"]


def _absolute(runs: pd.DataFrame, protocol: Protocol) -> Metrics:
    # The first token comes out of the prefill; the decoding clocks start after it.
    decoded = runs["new_tokens"] - 1
    columns = {
        "speed.ttft_s": (runs["ttft_s"], "s", "making the generator included"),
        "speed.prefill_tokens_per_s": (runs["prompt_tokens"] / runs["prefill_s"], "1/s", "prefill"),
        "speed.decode_tokens_per_s": (decoded / runs["decode_s"], "1/s", "after the first token"),
        "speed.cpu_s_per_token": (runs["cpu_decode_s"] / decoded, "s", "after the first token"),
    }
    measured = {}
    for name, (values, unit, what) in columns.items():
        median, interval = _nested(values, runs["launch"], protocol)
        measured[name] = with_interval(
            median,
            interval,
            n=len(values),
            unit=unit,
            method=_workload(runs, f"{what}: {_MEDIAN}"),
            clusters="launch",
        )
    return measured


def _ratios(runs: pd.DataFrame, lane: str, base: str, protocol: Protocol) -> Metrics:
    return {
        "speed.ttft_ratio": _ratio(runs, lane, base, "ttft_s", protocol),
        "speed.decode_time_ratio": _ratio(runs, lane, base, "decode_s", protocol),
        "speed.cpu_ratio": _ratio(runs, lane, base, "cpu_s", protocol),
    }


def _ratio(
    runs: pd.DataFrame, lane: str, base: str, column: str, protocol: Protocol
) -> Measurement:
    """Give the time of one lane over that of another, run by run."""
    seconds = runs.assign(cpu_s=runs["cpu_ttft_s"] + runs["cpu_decode_s"])
    table = seconds.pivot_table(index=["launch", "round"], columns="lane", values=column)
    both = table[[lane, base]].dropna()
    logs = (both[lane] / both[base]).map(math.log)
    median, interval = _nested(logs, both.index.get_level_values("launch"), protocol)
    return with_interval(
        math.exp(median),
        interval and mapped(interval, math.exp),
        n=len(both),
        method=_workload(runs, f"{column} of {lane} over {base}: {_RATIO}"),
        clusters="launch",
    )


def _nested(
    values: pd.Series[float], launches: object, protocol: Protocol
) -> tuple[float, Interval | None]:
    groups = [group.to_numpy(float) for _, group in values.groupby(np.asarray(launches))]
    return nested_median(groups, samples=protocol.bootstrap_samples, seed=protocol.seed)


def _workload(runs: pd.DataFrame, method: str) -> str:
    first = runs.iloc[0]
    return (
        f"{first['prompt_tokens']} prompt and {first['new_tokens']} new tokens, batch 1; {method}"
    )


def _memory(lane: str, samples: pd.DataFrame, launches: pd.DataFrame) -> Metrics:
    """Give the highest peaks over the launches, each of a fresh process."""
    loads = launches.loc[launches["lane"] == lane, "load_peak_rss_bytes"]
    first_runs = samples[samples["lane"] == lane].groupby("launch")["peak_rss_bytes"].first()
    how = "highest resident set size of a fresh process, largest of the launches"
    return {
        "memory.load_peak_rss_bytes": Measurement(
            value=float(loads.max()), n=len(loads), unit="B", method=f"{how}, after loading"
        ),
        "memory.peak_rss_bytes": Measurement(
            value=float(first_runs.max()),
            n=len(first_runs),
            unit="B",
            method=_workload(samples, f"{how}, after one run with room for just its tokens"),
        ),
    }
