"""Ratios of times: each variant over the first and over the champion, and the control over itself.

Run against run of the same launch, round and scenario, so that the weather both had cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from tasks.core.fairness import control_ratios, is_different, is_fair
from tasks.core.records import Measurement
from tasks.core.statistics import mapped
from tasks.examine.metrics import Metrics, not_applicable, not_measured, with_interval
from tasks.examine.protocol import Protocol
from tasks.examine.speed.rows import CONTROL, Timed, nested

_HOW = (
    "geometric mean over scenarios ({scenarios}) of the ratio of a round, then the median of "
    "rounds; bootstrap over launches and rounds"
)
# Of the same weights timed twice: name to column.
_CONTROLS = {
    "speed.aa_ratio": "e2e_s",
    "speed.aa_ttft_ratio": "ttft_s",
    "speed.aa_decode_ratio": "decode_s",
    "speed.aa_cpu_ratio": "cpu_s",
}
_TO_BASE = {
    "speed.ttft_ratio": "ttft_s",
    "speed.decode_time_ratio": "decode_s",
    "speed.cpu_ratio": "cpu_s",
}
_TO_CHAMPION = {"speed.ttft_to_champion": "ttft_s", "speed.decode_to_champion": "decode_s"}


@dataclass(frozen=True)
class _Doubt:
    """By what factor a clock that was not fair may have been wrong; None where nobody knows."""

    factor: float | None

    def on(self, ratio: Measurement) -> Measurement:
        """Widen a ratio by it, on the log scale.

        The ratio stays: a gate that is not asked on a bad clock lets any slowdown pass, and the
        control repeats the first variant, so an erratic one would silence its own gate.
        """
        if ratio.ci95 is None:
            return ratio
        if self.factor is None:
            reason = "the control has no interval, so nobody knows how far the clock was wrong"
            return not_measured(f"{reason}; {ratio.method}", n=ratio.n)
        low, high = ratio.ci95
        how = (
            f"widened by a factor of {self.factor:.2f}: the same weights timed twice came out "
            "different by up to that"
        )
        wide = (low / self.factor, high * self.factor)
        return ratio.model_copy(update={"ci95": wide, "method": f"{ratio.method}; {how}"})


def control_metrics(timed: Timed, protocol: Protocol) -> Metrics:
    """Compare the same weights with themselves; what comes out different is the clock's doing."""
    found = _all(_CONTROLS, timed, CONTROL, timed.base, protocol)
    names = ", ".join(_CONTROLS.values())
    if any(ratio.ci95 is None for ratio in found.values()):
        different = Measurement(value=None, n=0, method="a control ratio has no interval")
    else:
        different = Measurement(
            value=float(sum(map(is_different, control_ratios(found).values()))),
            n=len(found),
            method=f"ratios of the same weights timed twice ({names}) beyond 1 +- 5 %",
        )
    return {**found, "speed.aa_different": different}


def ratio_metrics(timed: Timed, lane: str, control: Metrics, protocol: Protocol) -> Metrics:
    """Give a variant's times over those of the first variant and over the champion's.

    Args:
        timed: all rows.
        lane: the variant's.
        control: what `control_metrics` gives for these rows.
        protocol: for the bootstrap.
    """
    if lane == timed.base:
        first = not_applicable("this is the first variant, which the others are compared with")
        found = dict.fromkeys(_TO_BASE, first)
    else:
        found = _all(_TO_BASE, timed, lane, timed.base, protocol)
    if timed.champion is None:
        reason = "no champion was timed beside it: none is in the store, or it is one of these"
    elif timed.champion == lane:
        reason = "this is the champion"
    else:
        return found | _to_champion(timed, lane, timed.champion, control, protocol)
    return found | dict.fromkeys(_TO_CHAMPION, not_applicable(reason))


def _to_champion(
    timed: Timed, lane: str, champion: str, control: Metrics, protocol: Protocol
) -> Metrics:
    found = _all(_TO_CHAMPION, timed, lane, champion, protocol)
    if is_fair(control):
        return found
    same_twice = {column: control[name] for name, column in _CONTROLS.items()}
    return {
        name: _doubt_of(same_twice[column]).on(found[name]) for name, column in _TO_CHAMPION.items()
    }


def _doubt_of(same_twice: Measurement) -> _Doubt:
    """Take the end of the control's interval that is further from 1: a bias may go either way."""
    if same_twice.ci95 is None:
        return _Doubt(None)
    return _Doubt(math.exp(max(abs(math.log(end)) for end in same_twice.ci95)))


def _all(
    columns: dict[str, str], timed: Timed, lane: str, other: str, protocol: Protocol
) -> Metrics:
    return {name: ratio(timed, lane, other, column, protocol) for name, column in columns.items()}


def ratio(timed: Timed, lane: str, other: str, column: str, protocol: Protocol) -> Measurement:
    """Give the time of one lane over that of another, run by run."""
    how = _HOW.format(scenarios=", ".join(timed.scenarios))
    method = f"{column} of {lane} over {other}: {how}"
    return ratio_of_logs(_log_ratios(timed.runs, lane, other, column), protocol, method)


def ratio_of_logs(logs: pd.Series[float], protocol: Protocol, method: str) -> Measurement:
    """Give the median ratio from logarithms by launch and round."""
    if logs.empty:
        return Measurement(value=None, n=0, method=f"no run of both; {method}")
    median, interval = nested(logs, logs.index.get_level_values("launch"), protocol)
    return with_interval(
        math.exp(median),
        interval and mapped(interval, math.exp),
        n=len(logs),
        method=method,
        clusters="launch",
    )


def _log_ratios(runs: pd.DataFrame, lane: str, other: str, column: str) -> pd.Series[float]:
    """Give the mean over scenarios of ln(time / other time), for each launch and round.

    Not the median over scenarios: where a variant reads faster and writes slower it would jump
    between the two.
    """
    seconds = runs.assign(cpu_s=runs["cpu_ttft_s"] + runs["cpu_decode_s"])
    keys = ["launch", "round", "case_id"]
    table = seconds.pivot_table(index=keys, columns="lane", values=column)
    if lane not in table or other not in table:
        return pd.Series(dtype=float)
    logs = (table[lane] / table[other]).dropna().map(math.log)
    return pd.Series(logs.groupby(["launch", "round"]).mean(), dtype=float)
