"""What was measured of one section, on disk as it comes: a parquet of samples and its conditions.

An interrupted run goes on where it was; rounds of another plan, machine or state of the sources are
not mixed with new ones.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from benchmarks.arithmetic import ByRound, Figure, difference
from benchmarks.records import Conditions, Readings
from tasks.core.files import write_text_atomically

COLUMNS = ("lane", "round", "metric", "value")


class Kept:
    """The samples of one section.

    Args:
        folder: of all results.
        conditions: under which they are, or will be, measured.
        samples: a row a sample, columns as in `COLUMNS`.
    """

    def __init__(
        self, folder: Path, conditions: Conditions, samples: pd.DataFrame | None = None
    ) -> None:
        self._folder = folder
        self.conditions = conditions
        self.samples = pd.DataFrame(columns=list(COLUMNS)) if samples is None else samples

    @classmethod
    def read(cls, folder: Path, section: str) -> Kept | None:
        """Give what was measured of a section, or None."""
        conditions, samples = _files(folder, section)
        if not (conditions.is_file() and samples.is_file()):
            return None
        text = conditions.read_text(encoding="utf-8")
        return cls(folder, Conditions.model_validate_json(text), pd.read_parquet(samples))

    @classmethod
    def resumed(cls, folder: Path, conditions: Conditions) -> Kept:
        """Go on with what was measured under the same conditions, else begin."""
        before = cls.read(folder, conditions.section)
        if before is None or not _same(before.conditions, conditions):
            return cls(folder, conditions)
        update = {"rounds": conditions.rounds, "ended": before.conditions.ended}
        return cls(folder, conditions.model_copy(update=update), before.samples)

    def has(self, lane: str, number: int) -> bool:
        """Tell whether a lane was measured in a round."""
        samples = self.samples
        return bool(((samples["lane"] == lane) & (samples["round"] == number)).any())

    def add(self, lane: str, number: int, readings: Readings) -> None:
        """Keep what one lane gave in one round, and write it down."""
        rows = [(lane, number, metric, float(value)) for metric, value in readings.items()]
        new = pd.DataFrame(rows, columns=list(COLUMNS))
        self.samples = new if self.samples.empty else pd.concat([self.samples, new])
        self._write(ended=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"))

    def give_up(self, lane: str, reason: str) -> None:
        """Keep why a lane was not measured."""
        reasons = {**self.conditions.not_measured, lane: " ".join(reason.split())}
        self._write(not_measured=reasons)

    def lanes(self) -> list[str]:
        """Give the names of what was measured, in the order in which it first was."""
        return list(dict.fromkeys(self.samples["lane"]))

    def metrics(self, lane: str) -> list[str]:
        """Give the names of what was measured of a lane."""
        return list(dict.fromkeys(self.samples[self.samples["lane"] == lane]["metric"]))

    def values(self, lane: str, metric: str) -> ByRound:
        """Give one metric of one lane by round; empty where it was not measured."""
        samples = self.samples
        rows = samples[(samples["lane"] == lane) & (samples["metric"] == metric)]
        found = rows["round"], rows["value"]
        return {int(number): float(value) for number, value in zip(*found, strict=True)}

    def figure(self, lane: str, metric: str) -> Figure:
        """Give the median of one metric of one lane."""
        return Figure.of(self.values(lane, metric), self.why_not(lane))

    def seconds_beyond(self, lane: str, base: str) -> Figure:
        """Give the seconds that a lane takes beyond another, round by round."""
        first, second = self.values(lane, "seconds"), self.values(base, "seconds")
        return difference(first, second, self.why_not(lane, base))

    def why_not(self, *lanes: str) -> str:
        """Say why one of the lanes was not measured; empty where nothing is known."""
        reasons = self.conditions.not_measured
        return "; ".join(f"{lane}: {reasons[lane]}" for lane in lanes if lane in reasons)

    def _write(self, **changes: object) -> None:
        self.conditions = self.conditions.model_copy(update=changes)
        conditions, samples = _files(self._folder, self.conditions.section)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = samples.with_suffix(".partial")
        self.samples.astype({"round": "int64", "value": "float64"}).to_parquet(partial, index=False)
        partial.replace(samples)
        write_text_atomically(conditions, self.conditions.model_dump_json(indent=1) + "\n")


def _files(folder: Path, section: str) -> tuple[Path, Path]:
    return folder / f"{section}.json", folder / f"{section}.parquet"


def _same(before: Conditions, now: Conditions) -> bool:
    decides = ("section", "plan", "sources", "machine", "versions")
    return all(getattr(before, name) == getattr(now, name) for name in decides)
