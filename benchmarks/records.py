"""What the benchmarks pass around: costs, samples, what was measured where, tables.

Small records; nothing here measures, and what a figure is worth is for `targets.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.core.records import Precision, Record

if TYPE_CHECKING:
    from benchmarks.arithmetic import Figure
    from benchmarks.kept import Kept
    from benchmarks.places import Work

NOT_MEASURED = "not measured"

Readings = dict[str, float]  # metric, its unit in its name, to value


class NotMeasured(Exception):
    """Something cannot be measured here; the message says why, in a few words."""


class Cost(Record):
    """What one command cost.

    Attributes:
        seconds: wall time, the start of the process included.
        cpu_s: of the command and of all its children that it waited for.
        peak_rss_bytes: highest resident memory of the largest of these processes.
        peak_disk_bytes: of the folder that was watched; 0 where none was.
    """

    seconds: float
    cpu_s: float
    peak_rss_bytes: int
    peak_disk_bytes: int

    def readings(self) -> Readings:
        """Give it as metrics."""
        return {name: float(value) for name, value in self.model_dump().items()}

    def then(self, other: Cost) -> Cost:
        """Give what both cost one after the other."""
        return Cost(
            seconds=self.seconds + other.seconds,
            cpu_s=self.cpu_s + other.cpu_s,
            peak_rss_bytes=max(self.peak_rss_bytes, other.peak_rss_bytes),
            peak_disk_bytes=max(self.peak_disk_bytes, other.peak_disk_bytes),
        )


class Conditions(Record):
    """Under what a section was measured.

    Attributes:
        plan: what was asked for, as text; other plans are not mixed.
        sources: digest over the sources, so that no round is kept of another state of the code.
        revision: the commit, for people.
        machine: processor, cores, memory, system.
        versions: package to version.
        rounds: that were asked for.
        ended: when the last round ended, UTC.
        not_measured: lane to reason.
    """

    section: str
    plan: str
    sources: str
    revision: str
    machine: str
    versions: dict[str, str]
    rounds: int
    ended: str = ""
    not_measured: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Lane:
    """One thing that is measured once a round.

    Attributes:
        name: what it is called in tables.
        measure: takes the number of the round.
    """

    name: str
    measure: Callable[[int], Readings]


@dataclass(frozen=True)
class Table:
    """A table of a page."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a plot, from (x, y) to the next."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """A plot of a page: bars by name, or lines on two logarithmic scales.

    Attributes:
        bars: group to (name to value); empty for lines.
        limit: a level to draw, such as a target.
    """

    name: str
    title: str
    axis: str
    bars: dict[str, dict[str, float]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    limit: float | None = None


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        sizes: of the checkpoints of growth, in billions of parameters.
        size: of the checkpoint of all other sections.
        prompt_tokens, new_tokens: of a timed generation.
        questions: that the release of `rerun` asks; how many makes no difference to a run again.
    """

    rounds: int = 5
    threads: int = 2
    size: float = 0.5
    sizes: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 1.5)
    prompt_tokens: int = 128
    new_tokens: int = 64
    questions: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Section:
    """One part of the benchmarks.

    Attributes:
        about: what is compared with what, in Markdown.
        settings: the fields of the plan that decide what is measured.
        measure: measures what is not kept yet.
        tables, figures, plots: from what is kept; `figures` are those that have a target.
    """

    name: str
    title: str
    about: str
    settings: tuple[str, ...]
    measure: Callable[[Work, Plan, Kept], None]
    tables: Callable[[Kept], list[Table]]
    figures: Callable[[Kept], dict[str, Figure]]
    plots: Callable[[Kept], list[Plot]] = lambda _kept: []


@dataclass(frozen=True)
class Model:
    """A random checkpoint that was written for the benchmarks."""

    size: float
    folder: Path
    record: Path


VARIANTS = (Precision.INT4, Precision.INT8, Precision.FP16)
WITH_REFERENCE = (*VARIANTS, Precision.FP32)
