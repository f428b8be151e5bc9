"""From timed runs to metrics: medians by scenario, percentiles, loading, energy, contention.

Works on the rows that `schedule.py` collected; nothing is timed here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.core.fairness import is_fair
from tasks.core.records import Evidence, Measurement
from tasks.core.statistics import LEAST_CLUSTERS, LEVEL
from tasks.examine.metrics import Metrics, not_applicable, not_measured, share, with_interval
from tasks.examine.protocol import Protocol
from tasks.examine.speed.fit import latency_metrics
from tasks.examine.speed.memory import memory_metrics
from tasks.examine.speed.ratios import control_metrics, ratio_metrics
from tasks.examine.speed.rows import FRESH, MEDIAN, SIDE_BY_SIDE, Timed, measured, workload

LEAST_GAPS = 200  # p99 of fewer is the worst or the second worst of them
_PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_CLEAR_SHARE = 0.5
_QUANTILE_SAMPLES = 500

# Unit, and what it is, of each number that every scenario has.
_OF_SCENARIO = {
    "ttft_s": ("s", "making the generator included"),
    "prefill_tokens_per_s": ("1/s", "prompt tokens over the prefill"),
    "decode_tokens_per_s": ("1/s", "after the first token"),
    "cpu_s_per_token": ("s", "processor seconds of decoding, after the first token"),
    "cpu_s_per_prompt_token": ("s", "processor seconds of the prefill"),
}


def speed_evidence(lane: str, timed: Timed, protocol: Protocol) -> Evidence:
    """Summarise the runs of one variant.

    Args:
        lane: its lane in the rows.
        timed: all rows, those of the other lanes among them.
        protocol: for the bootstrap.
    """
    control = control_metrics(timed, protocol)
    metrics = {
        **_scenario_metrics(timed, lane, protocol),
        **_geometric_means(timed, lane, protocol),
        **_percentiles(timed.runs_of(lane, timed.headline), protocol),
        **_loading(timed, lane, protocol),
        "energy.joules_per_token": _energy(timed, lane, protocol),
        "speed.contended": _contended(timed.runs),
        **control,
        **ratio_metrics(timed, lane, control, protocol),
        **latency_metrics(timed, lane, protocol),
        **memory_metrics(timed, lane),
    }
    notes = [*_invalid(control), *contention(timed.runs), *timed.notes]
    return Evidence(suite="speed", subject=timed.digest_of(lane), metrics=metrics, notes=notes)


def contention(runs: pd.DataFrame) -> list[str]:
    """Say so in one note if half of the runs had to share their processors, else give no note."""
    contended = float(runs["contended"].mean())
    if contended < _CLEAR_SHARE:
        return []
    seen = f"in {contended:.0%} of the runs, load average {runs['loadavg1'].median():.1f}"
    waited = f"somebody waited for a processor ({seen})"
    return [f"contended: {waited}; trust ratios and CPU seconds, not absolute speeds"]


def clear_runs(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Leave the contended runs out where enough are left, and say which were taken.

    Enough is half of them, from two launches at least.
    """
    clear = runs[~runs["contended"].astype(bool)]
    if clear["launch"].nunique() < LEAST_CLUSTERS or len(clear) < _CLEAR_SHARE * len(runs):
        return runs, f"all {len(runs)} runs, contended ones among them"
    return clear, f"{len(clear)} of {len(runs)} runs, the uncontended ones"


def _invalid(control: Metrics) -> list[str]:
    fair = is_fair(control)
    if fair is None:
        return ["the same weights were not timed twice: nobody knows whether the clock was fair"]
    if fair:
        return []
    said = "the same weights timed twice came out different; trust no absolute speed of this run"
    return [f"INVALID: {said}; ratios to the champion are widened by that difference"]


def _contended(runs: pd.DataFrame) -> Measurement:
    return share(
        runs["contended"].to_numpy(bool),
        "runs of all lanes in which somebody waited for a processor for 10 % of the time, or the "
        "run itself had less than 0.9 of one",
    )


def _scenario_metrics(timed: Timed, lane: str, protocol: Protocol) -> Metrics:
    found: Metrics = {}
    for scenario in timed.scenarios:
        prefix = "speed." if scenario == timed.headline else f"speed.{scenario}."
        for name, made in _absolute(timed.runs_of(lane, scenario), protocol).items():
            found[prefix + name] = made
    for scenario in timed.unfit:
        reason = f"the scenario {scenario} does not fit into the context"
        for name in _OF_SCENARIO:
            found[f"speed.{scenario}.{name}"] = not_applicable(reason)
    cores = timed.runs_of(lane, timed.headline)
    found["speed.cpu_cores"] = measured(
        (cores["cpu_ttft_s"] + cores["cpu_decode_s"]) / cores["e2e_s"],
        cores["launch"],
        protocol,
        method=f"{workload(cores)}; processors that a run had: {MEDIAN}",
    )
    return found


def _absolute(all_runs: pd.DataFrame, protocol: Protocol) -> Metrics:
    """Give the numbers of one lane in one scenario."""
    runs, which = clear_runs(all_runs)
    values = {
        "ttft_s": runs["ttft_s"],
        "prefill_tokens_per_s": runs["n_in"] / runs["prefill_s"],
        "decode_tokens_per_s": decode_rate(runs),
        "cpu_s_per_token": runs["cpu_decode_s"] / (runs["n_out"] - 1),
        "cpu_s_per_prompt_token": runs["cpu_prefill_s"] / runs["n_in"],
    }
    return {
        name: measured(
            values[name],
            runs["launch"],
            protocol,
            unit=unit,
            method=f"{workload(runs)}; {what}: {MEDIAN}; {which}",
        )
        for name, (unit, what) in _OF_SCENARIO.items()
    }


def decode_rate(runs: pd.DataFrame) -> pd.Series[float]:
    """Give tokens a second; the first token comes out of the prefill, the clock starts after it."""
    return (runs["n_out"] - 1) / runs["decode_s"]


def _geometric_means(timed: Timed, lane: str, protocol: Protocol) -> Metrics:
    """Give one figure over all scenarios, as MLPerf Client's headline does."""
    own = timed.runs[timed.runs["lane"] == lane]
    runs, which = clear_runs(own)
    if _whole_rounds(runs, timed).index.nunique() < LEAST_CLUSTERS:
        runs, which = own, f"all {len(own)} runs, contended ones among them"
    table = runs.assign(decode_tokens_per_s=decode_rate(runs))
    names = ", ".join(timed.scenarios)
    found = {}
    for name, column, unit in (
        ("speed.ttft_geomean_s", "ttft_s", "s"),
        ("speed.decode_geomean_tokens_per_s", "decode_tokens_per_s", "1/s"),
    ):
        keys = ["launch", "round"]
        rounds = table.pivot_table(index=keys, columns="case_id", values=column).dropna()
        values = pd.Series(np.exp(np.log(rounds).mean(axis=1)), dtype=float)
        found[name] = measured(
            values,
            values.index.get_level_values("launch"),
            protocol,
            unit=unit,
            method=f"geometric mean over scenarios ({names}) of a round; {MEDIAN}; {which}",
        )
    return found


def _whole_rounds(runs: pd.DataFrame, timed: Timed) -> pd.Series[int]:
    """Count, by launch, the rounds of which every scenario is left."""
    scenarios = runs.groupby(["launch", "round"])["case_id"].nunique()
    whole = scenarios[scenarios == len(timed.scenarios)]
    return whole.groupby(level="launch").size()


def _percentiles(all_runs: pd.DataFrame, protocol: Protocol) -> Metrics:
    """Give percentiles of the gaps between tokens, pooled over runs."""
    runs, which = clear_runs(all_runs)
    if _gaps(runs) < LEAST_GAPS:
        runs, which = all_runs, f"all {len(all_runs)} runs"
    gaps = _gaps(runs)
    names = {f"speed.itl_{name}_s": quantile for name, quantile in _PERCENTILES.items()}
    if gaps < LEAST_GAPS:
        return dict.fromkeys(names, not_measured(f"{gaps} gaps between tokens are too few", n=gaps))
    how = f"{workload(runs)}; gaps between tokens, pooled; bootstrap over launches and runs"
    drawn = _drawn_quantiles(runs, list(names.values()), protocol)
    pooled = np.concatenate([np.asarray(found, float) for found in runs["itl"]])
    return {
        name: with_interval(
            float(np.quantile(pooled, quantile)),
            None if drawn is None else (drawn[0][index], drawn[1][index]),
            n=gaps,
            unit="s",
            method=f"{how}; {which}",
            clusters="launch",
        )
        for index, (name, quantile) in enumerate(names.items())
    }


def _gaps(runs: pd.DataFrame) -> int:
    return sum(map(len, runs["itl"]))


def _drawn_quantiles(
    runs: pd.DataFrame, quantiles: list[float], protocol: Protocol
) -> tuple[list[float], list[float]] | None:
    """Bootstrap quantiles over launches, then over the runs of each; None below two launches."""
    launches = [
        [np.asarray(found, float) for found in rows["itl"]] for _, rows in runs.groupby("launch")
    ]
    if len(launches) < LEAST_CLUSTERS:
        return None
    draw = np.random.default_rng(protocol.seed)
    found = np.empty((_QUANTILE_SAMPLES, len(quantiles)))
    for sample in range(_QUANTILE_SAMPLES):
        picked = [launches[index] for index in draw.integers(0, len(launches), len(launches))]
        pooled = [
            launch[index]
            for launch in picked
            for index in draw.integers(0, len(launch), len(launch))
        ]
        found[sample] = np.quantile(np.concatenate(pooled), quantiles)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail], axis=0)
    return low.tolist(), high.tolist()


def _loading(timed: Timed, lane: str, protocol: Protocol) -> Metrics:
    """Give process start to first token, with the files in memory and without."""
    launches = timed.launches[timed.launches["lane"] == lane]
    how = "start of the process to its first token after 16 prompt tokens; median over launches"
    warm = launches[launches["start"] == SIDE_BY_SIDE]
    cold = launches[(launches["start"] == FRESH) & (launches["page_cache"] == "")]
    kept = sorted(set(launches.loc[launches["start"] == FRESH, "page_cache"]) - {""})
    return {
        "speed.load_warm_s": measured(
            warm["start_s"],
            warm["launch"],
            protocol,
            unit="s",
            method=f"{how}; files in the page cache",
        ),
        "speed.load_cold_s": not_applicable(kept[0])
        if kept
        else measured(
            cold["start_s"],
            cold["launch"],
            protocol,
            unit="s",
            method=f"{how}; files of the variant dropped from the page cache",
        ),
    }


def _energy(timed: Timed, lane: str, protocol: Protocol) -> Measurement:
    """Give joules a new token, above rest: they are the machine's, so of clear runs only."""
    if timed.no_energy:
        return not_applicable(timed.no_energy)
    if timed.idle_w is None:
        return not_measured("the power at rest was not measured")
    runs = timed.runs_of(lane, timed.headline)
    clear = runs[~runs["contended"].astype(bool)]
    if clear.empty:
        return not_measured("every run was contended; joules are those of the whole machine")
    # Over the time between the two readings, which spans tokenising and the talk with the worker
    # too: less than that leaves the power at rest of those in.
    joules = (clear["energy_j"] - timed.idle_w * clear["energy_s"]) / clear["n_out"]
    return measured(
        joules,
        clear["launch"],
        protocol,
        unit="J",
        method=f"{workload(clear)}; RAPL packages less {timed.idle_w:.1f} W at rest, over the new "
        f"tokens: {MEDIAN}; {len(clear)} of {len(runs)} runs, the uncontended ones",
    )
