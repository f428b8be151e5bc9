"""Turning a matplotlib figure into SVG that takes its colours and its font from the page.

Knows figures and their marks, not what they show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast
from xml.sax.saxutils import quoteattr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A figure is drawn in colours that stand for variables of the page: matplotlib takes no
# `var(--ink)`, and a colour that nobody would choose cannot be taken for another one.
INK = "#01fe01"
MUTED = "#01fe02"
GRID = "#01fe03"
INT4 = "#01fe04"
INT8 = "#01fe05"
FP16 = "#01fe06"
REFERENCE = "#01fe07"
LIMIT = "#01fe08"
BAND = "#01fe09"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    INT4: "int4",
    INT8: "int8",
    FP16: "fp16",
    REFERENCE: "reference",
    LIMIT: "limit",
    BAND: "band",
}

# One unit of the drawing is one CSS pixel at this width; a phone of 360 px shows 0.9 of it.
WIDTH = 360
_POINTS_PER_INCH = 72

STYLE: dict[str, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ingot",  # ids are random without it
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 12,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "legend.fontsize": 11.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.8,
}


@contextmanager
def drawing_style() -> Iterator[None]:
    """Draw in the page's style, whatever a user's own matplotlibrc says."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast("Any", STYLE))
        yield


def new_figure(height: float) -> Figure:
    """Give an empty figure of the page's width, `height` units high."""
    from matplotlib.figure import Figure

    size = (WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
    return Figure(figsize=size, dpi=_POINTS_PER_INCH, layout="constrained")


def to_svg(figure: Figure, name: str, alternative: str) -> str:
    """Write a figure as one `<svg>` element, the same bytes for the same figure.

    Args:
        figure: drawn in the colours of this module.
        name: unlike that of any other picture on the page; keeps the ids apart.
        alternative: what the picture shows, for those who do not see it.
    """
    stream = BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue().decode("utf-8")
    svg = text[text.index("<svg") :].strip()
    # The one style sheet inside would hold for the whole page; style.css has its rule.
    for element in ("metadata", "style"):
        svg = re.sub(rf"<{element}[^>]*>.*?</{element}>", "", svg, flags=re.DOTALL)
    return _labelled(_compact(_with_own_ids(_themed(svg), name)), alternative)


def _themed(svg: str) -> str:
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # Text in the page's own font: the drawing was laid out with DejaVu Sans, which is wide.
    # matplotlib 3.10 writes `font: bold 12px 'DejaVu Sans', ...`, 3.11 one property for each.
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    return re.sub(r"font: (?:(bold|\d+) )?([\d.]+px)[^;\"]*", _font, svg)


def _font(found: re.Match[str]) -> str:
    weight = f"font-weight: {found[1]}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}"


def _with_own_ids(svg: str, name: str) -> str:
    """Keep only ids that are referred to, and make them unlike those of other pictures."""
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))

    def own(found: re.Match[str]) -> str:
        return f' id="{name}-{found[1]}"' if found[1] in used else ""

    svg = re.sub(r' id="([^"]+)"', own, svg)
    return re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", svg)


def _compact(svg: str) -> str:
    """Drop line breaks and what is finer than a tenth of a pixel, in geometry only."""
    svg = re.sub(r"<defs>\s*</defs>", "", svg)

    def shorter(found: re.Match[str]) -> str:
        numbers = re.sub(r"(\d+\.\d)\d+", r"\1", found[2])
        return f'{found[1]}="{" ".join(numbers.split())}"'

    svg = re.sub(r'\b(d|x|y|transform|width|height)="([^"]*)"', shorter, svg)
    return re.sub(r">\s*\n\s*<", "><", svg)


def _labelled(svg: str, alternative: str) -> str:
    """Let the page decide the width, and say what is shown."""
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', head)
    if box is None:
        raise ValueError("matplotlib wrote no viewBox")
    return f'<svg {box[0]} role="img" aria-label={quoteattr(alternative)}>{rest}'
