"""All plots of the page, each with how to read it; one that cannot be drawn says why.

A plot stops no report: the figures behind it are in the tables.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from tasks.report.html.drawing import Drawing, Material, NothingToDraw
from tasks.report.html.quality_plots import (
    divergence_by_position,
    divergence_histogram,
    size_against_divergence,
)
from tasks.report.html.running_plots import (
    first_token_by_length,
    memory_over_generations,
    ratios,
    token_gaps,
)
from tasks.report.html.svg import drawing_style, to_svg

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plot:
    """A plot on the page.

    Attributes:
        caption: how to read it, in a sentence.
        svg: the drawing, or empty.
        why_not: why there is none.
    """

    name: str
    title: str
    caption: str
    svg: str = ""
    why_not: str = ""


@dataclass(frozen=True)
class PlotKind:
    """A plot that a run may have data for."""

    name: str
    title: str
    caption: str
    draw: Callable[[Material], Drawing]


PLOTS = (
    PlotKind(
        "size",
        "Size against fidelity",
        "Left is smaller, down is closer to the reference; the ring marks what ships, bars are "
        "95 % intervals.",
        size_against_divergence,
    ),
    PlotKind(
        "histogram",
        "Divergence, token by token",
        "Each strip counts tokens by how far the variant's prediction is from the reference's: "
        "left is closer, and the right tail is where answers change.",
        divergence_histogram,
    ),
    PlotKind(
        "positions",
        "Divergence along the context",
        "A level line is good: late tokens are as close to the reference as early ones. Shaded: "
        "intervals.",
        divergence_by_position,
    ),
    PlotKind(
        "ratios",
        "Speed, side by side",
        "Left of 1 is faster than the first variant, or than the champion where it says so. What "
        "touches the shaded ±5 % is the same in practice; the first rows (A/A) are one variant "
        "timed against itself and must touch it.",
        ratios,
    ),
    PlotKind(
        "latency",
        "First token, by prompt length",
        "Lower is faster. Filled: by the clock; hollow: processor time, which a busy machine "
        "disturbs less; line: the curve a + b n + c n² fitted to it.",
        first_token_by_length,
    ),
    PlotKind(
        "gaps",
        "Gaps between tokens",
        "Left is faster; a long flat top is a tail of slow tokens.",
        token_gaps,
    ),
    PlotKind(
        "memory",
        "Memory in long use",
        "Growth after the warm-up. Thick: anonymous memory, thin: live heap. A leak climbs past "
        "the budget line, 64 MiB in 10,000 generations.",
        memory_over_generations,
    ),
)


def draw_all(material: Material) -> list[Plot]:
    """Draw every plot there is data for."""
    return [draw(kind, material) for kind in PLOTS]


def draw(kind: PlotKind, material: Material) -> Plot:
    """Draw one plot, or say why not."""
    with drawing_style():
        return _drawn(kind, material)


def _drawn(kind: PlotKind, material: Material) -> Plot:
    plot = Plot(kind.name, kind.title, kind.caption)
    try:
        drawing = kind.draw(material)
        svg = to_svg(drawing.figure, kind.name, f"{kind.title}: {drawing.alternative}")
    except NothingToDraw as nothing:
        return Plot(plot.name, plot.title, plot.caption, why_not=str(nothing))
    except Exception as problem:
        log.exception("the plot %s could not be drawn", kind.name)
        return Plot(plot.name, plot.title, plot.caption, why_not=f"could not be drawn: {problem}")
    return Plot(plot.name, plot.title, plot.caption, svg=svg)
