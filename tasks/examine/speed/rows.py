"""What was timed together, as rows, and the two-level interval of a column of them.

The rows come from `schedule.py`; which numbers are made of them is for the modules beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tasks.core.records import Measurement
from tasks.core.statistics import Interval, nested_median
from tasks.examine.metrics import with_interval
from tasks.examine.protocol import Protocol

CONTROL = "control"
CHAMPION = "champion"

# Phases of a run. Those of one length have one new token, and no part in rates and ratios.
WARM, RUN, LENGTH = "warm", "run", "length"
# How a worker was started: alone for loading and memory, or to be timed beside the others.
FRESH, SIDE_BY_SIDE = "fresh", "side by side"

MEDIAN = "median of runs, interleaved with the other variants; bootstrap over launches and rounds"


@dataclass(frozen=True)
class Timed:
    """Rows of one measurement, and what they are of.

    Attributes:
        lanes: those of the variants that are examined; the first is the base of the ratios.
        champion: lane of what is shipped now, or None.
        headline: scenario that unnamed metrics are of.
        scenarios: all that were timed.
        unfit: scenarios that the context has no room for.
        samples: a row a run.
        launches: a row a worker.
        latency: a row a lane and length.
        idle_w: power at rest, or None with `no_energy` as the reason.
        notes: what was left out.
    """

    lanes: Sequence[str]
    headline: str
    scenarios: Sequence[str]
    samples: pd.DataFrame
    launches: pd.DataFrame
    latency: pd.DataFrame = field(default_factory=pd.DataFrame)
    champion: str | None = None
    unfit: Sequence[str] = ()
    idle_w: float | None = None
    no_energy: str = ""
    notes: Sequence[str] = ()

    @property
    def base(self) -> str:
        """The lane that ratios refer to, and that the control repeats."""
        return self.lanes[0]

    @property
    def runs(self) -> pd.DataFrame:
        """The runs that count."""
        return self.samples[self.samples["phase"] == RUN]

    def runs_of(self, lane: str, scenario: str) -> pd.DataFrame:
        """Give the runs of one lane in one scenario."""
        runs = self.runs
        return runs[(runs["lane"] == lane) & (runs["case_id"] == scenario)]

    def digest_of(self, lane: str) -> str:
        """Give the variant of a lane."""
        return str(self.samples.loc[self.samples["lane"] == lane, "digest"].iloc[0])


def nested(
    values: pd.Series[float], launches: object, protocol: Protocol
) -> tuple[float, Interval | None]:
    """Give the median, bootstrapped over launches, then over the observations in one."""
    groups = [group.to_numpy(float) for _, group in values.groupby(np.asarray(launches))]
    return nested_median(groups, samples=protocol.bootstrap_samples, seed=protocol.seed)


def measured(
    values: pd.Series[float],
    launches: object,
    protocol: Protocol,
    *,
    method: str,
    unit: str = "1",
) -> Measurement:
    """Give a median with its interval, or no value below two launches."""
    if values.empty:
        return Measurement(value=None, n=0, unit=unit, method=f"no run; {method}")
    median, interval = nested(values, launches, protocol)
    return with_interval(
        median, interval, n=len(values), unit=unit, method=method, clusters="launch"
    )


def workload(runs: pd.DataFrame) -> str:
    """Say what the runs of one scenario were."""
    if runs.empty:
        return "no run"
    first = runs.iloc[0]
    return f"{first['n_in']} prompt and {first['n_out']} new tokens, batch 1"
