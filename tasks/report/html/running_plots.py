"""Plots of what a variant costs while it runs: time and memory.

Draws what was measured elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tasks.core.fairness import SAME_WITHIN
from tasks.core.figures import MIB, figure
from tasks.core.records import Measurement, Severity
from tasks.report.html import svg
from tasks.report.html.drawing import (
    Drawing,
    Material,
    NothingToDraw,
    doubling_axis,
    legend_above,
    line_of,
    log_axis,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Series: TypeAlias = NDArray[np.floating]

CONTROL = "control"  # the lane in which the first variant runs a second time
_RATIO_TICKS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (1.6, (0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4)),
    (4.0, (0.4, 0.6, 0.8, 1, 1.2, 1.5, 2, 3)),
    (math.inf, (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32)),
)
# Memory still grows in the first 300 generations of a sound engine (measured).
WARMUP_GENERATIONS = 300
_GROWTHS = ("soak.heap_growth_bytes", "soak.anon_growth_bytes")
_MEMORIES = (("anon_b", "anonymous memory", 1.8), ("heap_b", "live heap", 1.0))
_MOST_POINTS = 300
_SAME_TWICE = {
    "speed.aa_ratio": "all",
    "speed.aa_ttft_ratio": "first token",
    "speed.aa_decode_ratio": "decoding",
    "speed.aa_cpu_ratio": "processor",
}
_RATIOS = {
    "speed.ttft_ratio": "first token",
    "speed.decode_time_ratio": "decoding",
    "speed.cpu_ratio": "processor",
    "speed.ttft_to_champion": "first token (champion)",
    "speed.decode_to_champion": "decoding (champion)",
}
_LEAST_LENGTHS = 3
_LEAST_READINGS = 20


def first_token_by_length(material: Material) -> Drawing:
    """Time to the first token against the length of the prompt: wall, CPU, and its fit."""
    rows = material.frame("latency", "n", "wall_s", "cpu_s", "fit_s").sort_values("n")
    parts = material.by_subject(
        rows,
        lambda part: len(part) >= _LEAST_LENGTHS,
        f"no variant was timed with prompts of {_LEAST_LENGTHS} lengths or more",
    )
    drawn = svg.new_figure(280)
    axes = drawn.subplots()
    words = []
    for subject, part in parts.items():
        at, wall, cpu = part["n"], part["wall_s"] * 1000, part["cpu_s"] * 1000
        look: dict[str, Any] = {
            "color": subject.colour,
            "marker": subject.marker,
            "linestyle": "none",
        }
        axes.plot(at, wall, markersize=6, **look)
        axes.plot(at, cpu, markersize=9, markerfacecolor="none", **look)
        axes.plot(at, part["fit_s"] * 1000, color=subject.colour, linestyle=subject.dash)
        words.append(
            f"{subject.label} {figure(wall.iloc[0])} ms at {at.iloc[0]:,} tokens, "
            f"{figure(wall.iloc[-1])} ms at {at.iloc[-1]:,}"
        )
    log_axis(axes, "y", figure)
    doubling_axis(axes, rows["n"].astype(float), lambda tick: f"{tick:,.0f}")
    axes.set_xlabel("prompt, tokens")
    axes.set_ylabel("first token after, ms")
    legend_above(drawn, [line_of(subject, marker=subject.marker) for subject in parts])
    return Drawing(drawn, "; ".join(words))


def memory_over_generations(material: Material) -> Drawing:
    """Growth of memory after the warm-up of a long run, with the budget as a line."""
    parts = material.by_subject(
        material.frame("memory", "i", "anon_b").sort_values("i"),
        lambda rows: len(rows) > _LEAST_READINGS,
        "no variant ran long enough",
    )
    drawn = svg.new_figure(270)
    axes = drawn.subplots()
    words, first, last = [], math.inf, 0.0
    for subject, rows in parts.items():
        for column, kind, width in _MEMORIES:
            at, growth = _growth(rows, column)
            if len(at):
                axes.plot(at, growth, color=subject.colour, linestyle=subject.dash, linewidth=width)
                first, last = min(first, float(at[0])), max(last, float(at[-1]))
                words.append(f"{subject.label} {kind} {growth[-1]:+.2f} MiB at the end")
    budget = (last - first) * _budget_mib(material)
    if math.isfinite(budget):
        axes.plot([first, last], [0, budget], color=svg.LIMIT, linewidth=1.4)
        axes.annotate("budget", ((first + last) / 2, budget / 2), (6, -4), va="top",
                      textcoords="offset points", fontsize=11.5)  # fmt: skip
        words.insert(0, f"budget {budget:.2f} MiB")
    axes.set_xlabel("generations")
    axes.set_ylabel("growth, MiB")
    legend_above(drawn, [line_of(subject) for subject in parts])
    return Drawing(drawn, "; ".join(words))


def _budget_mib(material: Material) -> float:
    """Give the tightest limit that blocked or could have, MiB a generation; infinite if none."""
    limits = (
        gate.limit
        for gate in material.run.gates
        if gate.metric in _GROWTHS and gate.severity is Severity.BLOCK
    )
    return min(limits, default=math.inf) / MIB


def _growth(rows: pd.DataFrame, column: str) -> tuple[Series, Series]:
    """Give growth in MiB since the warm-up's end, thinned to what a plot can show."""
    import numpy as np

    if column not in rows:
        return np.array([]), np.array([])
    warm = min(WARMUP_GENERATIONS, len(rows) // 4)
    values, at = rows[column].to_numpy(float)[warm:], rows["i"].to_numpy(float)[warm:]
    seen = np.isfinite(values) & (values > 0)
    values, at = values[seen] / MIB, at[seen]
    block = max(1, len(at) // _MOST_POINTS)
    whole = len(at) // block * block
    if whole == 0:
        return np.array([]), np.array([])
    highest = values[:whole].reshape(-1, block).max(axis=1)
    return at[:whole:block], highest - highest[0]


@dataclass(frozen=True)
class _Ratio:
    label: str
    colour: str
    marker: str
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, label: str, colour: str, marker: str, found: Measurement) -> _Ratio:
        value = found.value or 0.0
        return cls(label, colour, marker, value, *(found.ci95 or (value, value)))


def ratios(material: Material) -> Drawing:
    """Ratios of times with their intervals, and the same weights timed twice on top."""
    rows = _ratio_rows(material)
    if not rows:
        raise NothingToDraw("no ratio of times was measured")
    drawn = svg.new_figure(60 + 26 * len(rows))
    axes = drawn.subplots()
    axes.axvspan(1 - SAME_WITHIN, 1 + SAME_WITHIN, color=svg.BAND, alpha=0.35, linewidth=0)
    axes.axvline(1, color=svg.MUTED, linewidth=1)
    for place, row in enumerate(rows):
        _interval(axes, row, -place)
    axes.set_yticks([-place for place in range(len(rows))], [row.label for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    log_axis(axes, "x")
    _ticks_of_ratios(axes, rows)
    axes.set_xlabel("time, as a multiple")
    words = [f"{row.label} {figure(row.value)}" for row in rows]
    return Drawing(drawn, "; ".join(words))


def _ratio_rows(material: Material) -> list[_Ratio]:
    first = [
        _Ratio.of(f"same twice, {words}", svg.MUTED, "D", found)
        for metric, words in _SAME_TWICE.items()
        if (found := _of_any(material, metric))
    ]
    return first + [
        _Ratio.of(f"{subject.label} {words}", subject.colour, subject.marker, found)
        for metric, words in _RATIOS.items()
        for subject in material.subjects
        if (found := material.measured(subject, metric)) and found.ci95
    ]


def _of_any(material: Material, metric: str) -> Measurement | None:
    """Find what was measured once for all variants."""
    found = (material.measured(subject, metric) for subject in material.subjects)
    return next((measurement for measurement in found if measurement), None)


def _interval(axes: Axes, row: _Ratio, at: float) -> None:
    axes.plot([row.low, row.high], [at, at], color=row.colour, linewidth=2.2)
    axes.plot([row.value], [at], row.marker, color=row.colour, markersize=7)


def _ticks_of_ratios(axes: Axes, rows: list[_Ratio]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    low = min(0.9, *(row.low for row in rows)) / 1.03
    high = max(1.1, *(row.high for row in rows)) * 1.03
    axes.set_xlim(low, high)
    ticks = next(ticks for widest, ticks in _RATIO_TICKS if high / low < widest)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low < tick < high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"×{tick:g}"))  # noqa: RUF001


def token_gaps(material: Material) -> Drawing:
    """Share of the gaps between tokens that are no longer than so many milliseconds."""
    import numpy as np

    parts = material.by_subject(_counted(material.frame("samples", "itl")))
    drawn = svg.new_figure(260)
    axes = drawn.subplots()
    shares, words, shown = np.linspace(0.001, 0.999, _MOST_POINTS), [], []
    for subject, rows in parts.items():
        gaps = _pooled(rows)
        if len(gaps) < 2:
            continue
        shown.append(subject)
        axes.plot(np.quantile(gaps, shares), shares * 100, color=subject.colour,
                  linestyle=subject.dash)  # fmt: skip
        middle, tail = np.quantile(gaps, [0.5, 0.99])
        words.append(f"{subject.label} median {figure(middle)} ms, 99 % below {figure(tail)} ms")
    if not shown:
        raise NothingToDraw("no gaps between tokens were recorded")
    log_axis(axes, "x", figure)
    axes.set_xlabel("gap between two tokens, ms")
    axes.set_ylabel("gaps no longer, %")
    legend_above(drawn, [line_of(subject) for subject in shown])
    return Drawing(drawn, "; ".join(words))


def _counted(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out warm-ups, and the second lane of a variant that was timed twice."""
    if "phase" in rows:
        rows = rows[rows["phase"] == "run"]
    return rows[rows["lane"] != CONTROL] if "lane" in rows else rows


def _pooled(rows: pd.DataFrame) -> Series:
    import numpy as np

    lists = [np.asarray(found, float) for found in rows["itl"].dropna() if len(found)]
    gaps = np.concatenate(lists) * 1000 if lists else np.array([])
    return gaps[gaps > 0]
