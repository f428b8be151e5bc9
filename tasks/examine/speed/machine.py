"""What else the machine did while a run was timed: pressure, load, stolen time.

Reads the kernel's counters and says whether a run was contended; what it was a run of is not
known here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# Above this share of the run somebody waited for a processor; below this many processors the run
# itself did.
_PRESSURE_PERCENT = 10.0
_LEAST_CORES = 0.9

_PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True)
class Weather:
    """The kernel's counters at one moment.

    Attributes:
        at_s: monotonic clock.
        load_average: over one minute.
        pressure: share of the last 10 s in which some process waited for a processor, in percent;
            None where the kernel does not tell (no Linux, or no pressure stall information).
        stalled_s: seconds in which some process waited for one, since boot; None likewise.
        stolen_s, all_s: processor seconds taken by the host's other guests, and all of them.
    """

    at_s: float
    load_average: float
    pressure: float | None
    stalled_s: float | None
    stolen_s: float
    all_s: float

    @classmethod
    def now(cls, pressure: Path = _PRESSURE) -> Weather:
        """Read the counters; takes 0.2 ms."""
        average, stalled_s = _stall(pressure)
        times = psutil.cpu_times()
        return cls(
            at_s=time.monotonic(),
            load_average=psutil.getloadavg()[0],
            pressure=average,
            stalled_s=stalled_s,
            stolen_s=getattr(times, "steal", 0.0),
            all_s=sum(times),
        )


def during(before: Weather, after: Weather, cpu_cores: float) -> dict[str, Any]:
    """Describe the time between two readings as columns of a run's row.

    Args:
        before: read before the run.
        after: read after it.
        cpu_cores: processors that the run itself had on average.
    """
    stall = _stall_percent(before, after)
    spent = after.all_s - before.all_s
    return {
        "loadavg1": after.load_average,
        "psi_cpu10": after.pressure,
        "stall_pct": stall,
        "steal_pct": 100 * (after.stolen_s - before.stolen_s) / spent if spent > 0 else 0.0,
        "contended": is_contended(cpu_cores, stall, after.load_average, psutil.cpu_count() or 1),
    }


def is_contended(
    cpu_cores: float, stall_percent: float | None, load_average: float, cores: int
) -> bool:
    """Tell whether a run had to share its processors, so that its seconds are no result.

    Args:
        cpu_cores: processors that it had; one that generates is never idle.
        stall_percent: share of its time in which some process waited for a processor.
        load_average: decides where the kernel does not tell the former.
        cores: of the machine.
    """
    if cpu_cores < _LEAST_CORES:
        return True
    if stall_percent is None:
        return load_average > cores
    return stall_percent >= _PRESSURE_PERCENT


def _stall(file: Path) -> tuple[float | None, float | None]:
    try:
        line = file.read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None, None
    fields = dict(field.split("=") for field in line.split()[1:])
    return float(fields["avg10"]), int(fields["total"]) / 1e6


def _stall_percent(before: Weather, after: Weather) -> float | None:
    # The running average covers 10 s, a run 20 ms: only the counter itself is of this run.
    if before.stalled_s is None or after.stalled_s is None:
        return None
    return 100 * (after.stalled_s - before.stalled_s) / max(after.at_s - before.at_s, 1e-6)
