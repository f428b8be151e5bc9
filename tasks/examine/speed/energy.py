"""Energy of all processor packages through RAPL: joules between two readings, and idle power.

A counter is machine-wide: whose joules they are is for the caller to keep apart.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")

# One colon is a package; a second one is a part of it and would be counted twice.
_PACKAGE = re.compile(r"(intel|amd)-rapl:\d+")
_WHOLE_PLATFORM = "psys"  # a zone of one colon too, which holds the packages


@dataclass(frozen=True)
class _Zone:
    counter: Path
    range_uj: int


class EnergyMeter:
    """The energy counters of the processor packages.

    Args:
        root: the kernel's powercap folder.

    Attributes:
        reason: why nothing can be read, or empty.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones: list[_Zone] = []
        self.reason = ""
        folders = [entry for entry in _entries(root) if _PACKAGE.fullmatch(entry.name)]
        if not folders:
            self.reason = "no RAPL energy counter on this machine"
            return
        try:
            self._zones = [
                _Zone(folder / "energy_uj", int(_read(folder / "max_energy_range_uj")))
                for folder in folders
                if not _read(folder / "name").startswith(_WHOLE_PLATFORM)
            ]
            self.read()
        except (OSError, ValueError) as problem:
            self._zones = []
            # energy_uj is for root only since Linux 5.10 (CVE-2020-8694).
            self.reason = f"the RAPL energy counter cannot be read: {type(problem).__name__}"

    def read(self) -> list[int]:
        """Give the counter of each package, in microjoules; empty where there is none."""
        return [int(_read(zone.counter)) for zone in self._zones]

    def joules(self, before: list[int], after: list[int]) -> float | None:
        """Give the energy between two readings; None where there is no counter.

        A counter starts at 0 again after its range, which a loaded package fills in minutes: at
        most one such wrap between two readings is seen.
        """
        if not self._zones:
            return None
        used = (
            late - early if late >= early else late + zone.range_uj - early
            for zone, early, late in zip(self._zones, before, after, strict=True)
        )
        return sum(used) / 1e6

    def idle_w(self, seconds: float, sleep: Callable[[float], None] = time.sleep) -> float | None:
        """Give the power at rest, measured over some seconds; None where there is no counter."""
        if not self._zones or seconds <= 0:
            return None
        before, start = self.read(), time.monotonic()
        sleep(seconds)
        joules = self.joules(before, self.read())
        return None if joules is None else joules / max(time.monotonic() - start, 1e-9)


def _entries(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError:
        return []


def _read(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()
