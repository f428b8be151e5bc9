"""A plot as a small SVG file: bars by name, or lines on two logarithmic scales."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.arithmetic import rounded
from benchmarks.records import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _THEIRS = "#2b6cb0", "#b0b7c3"
_WIDTH = 7.0
_OTHERS = ("llama.cpp", "Olive")


def draw(plot: Plot, file: Path) -> None:
    """Write the plot to a file, the same bytes for the same figures."""
    import matplotlib as mpl

    mpl.use("svg")
    # Else the ids, and so the bytes, are others each time.
    mpl.rcParams.update({"svg.hashsalt": "ingot", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    count = sum(map(len, plot.bars.values()))
    height = 3.6 if plot.lines else 0.9 + 0.32 * count
    figure, axes = pyplot.subplots(figsize=(_WIDTH, height), layout="constrained")
    if plot.lines:
        _draw_lines(axes, plot)
    else:
        _draw_bars(axes, plot)
    axes.set_title(plot.title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _draw_bars(axes: Axes, plot: Plot) -> None:
    named = [(name, value) for group in plot.bars.values() for name, value in group.items()]
    names = [name for name, _ in named]
    colours = [_THEIRS if name.startswith(_OTHERS) else _OURS for name in names]
    bars = axes.barh(names, [value for _, value in named], color=colours)
    axes.bar_label(bars, [rounded(value) for _, value in named], padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(plot.axis)
    axes.margins(x=0.12)


def _draw_lines(axes: Axes, plot: Plot) -> None:
    for line in plot.lines:
        xs, ys = zip(*line.points, strict=True)
        axes.plot(xs, ys, marker="o", label=line.name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(plot.axis)
    ticks = sorted({x for line in plot.lines for x, _ in line.points})
    axes.set_xticks(ticks, [rounded(tick, 2) for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False)
