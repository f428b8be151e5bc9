"""What the benchmarks promise, and whether a figure keeps it.

A figure that was not measured is no pass and no failure: it says so. Judged by the median.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.arithmetic import Figure, rounded
from benchmarks.records import NOT_MEASURED


class Verdict(StrEnum):
    """What became of a promise."""

    KEPT = "kept"
    MISSED = "**missed**"
    NOT_MEASURED = NOT_MEASURED


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        section: that measures it.
        figure: its name among the figures of the section.
        words: what is measured, for people.
        at_most: whether less is better.
    """

    section: str
    figure: str
    words: str
    limit: float
    at_most: bool = True

    def verdict(self, figure: Figure | None) -> Verdict:
        """Hold a figure against the limit."""
        if figure is None or figure.value is None:
            return Verdict.NOT_MEASURED
        # Written so that NaN, which compares with nothing, misses.
        kept = figure.value <= self.limit if self.at_most else figure.value >= self.limit
        return Verdict.KEPT if kept else Verdict.MISSED

    @property
    def bound(self) -> str:
        """Show the limit."""
        return f"{'≤' if self.at_most else '≥'} {rounded(self.limit)}"


TARGETS = (
    Target("fan-out", "time_over_olive", "three variants, time over three plain Olive runs", 0.18),
    Target("fan-out", "time_over_llama", "three variants, time over llama.cpp's three files", 1.0),
    Target("fan-out", "memory_beyond_gib", "peak memory beyond the checkpoint's bytes, GiB", 0.6),
    Target("fan-out", "size_int4", "INT4 folder over the source", 0.33),
    Target("fan-out", "size_int8", "INT8 folder over the source", 0.58),
    Target("fan-out", "size_fp16", "FP16 folder over the source", 1.02),
    Target("growth", "time_slope", "time against parameters, log-log slope", 1.05),
    Target("growth", "memory_slope", "memory against parameters, log-log slope", 1.05),
    Target("growth", "disk_slope", "disk against parameters, log-log slope", 1.05),
    Target("decode", "int4_over_q4_0", "decoding, INT4 over Q4_0", 1.5, at_most=False),
    Target("decode", "int8_over_q8_0", "decoding, INT8 over Q8_0", 1.25, at_most=False),
    Target("orchestration", "cost_s", "a release with Prefect, seconds beyond the same without", 4),
    Target("rerun", "beyond_hashing_s", "a release again, unchanged, seconds beyond hashing", 2.0),
    Target("start-up", "help_s", "`ingot --help`, seconds", 0.3),
    Target("start-up", "check_s", "`ingot check`, seconds", 3.0),
)
