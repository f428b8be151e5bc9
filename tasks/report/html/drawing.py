"""What all plots share: subjects with their marks, rows of the run, axes that read well.

Shows nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.core.records import Measurement, Precision, Variant
from tasks.report.approval import is_withheld
from tasks.report.contents import label_of
from tasks.report.html import svg
from tasks.report.load import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {Precision.INT4: svg.INT4, Precision.INT8: svg.INT8, Precision.FP16: svg.FP16}
# Never by colour alone.
_MARKERS = {Precision.INT4: "o", Precision.INT8: "s", Precision.FP16: "^"}
_DASHES: dict[Precision, Any] = {
    Precision.INT4: "-",
    Precision.INT8: (0, (5, 1.5)),
    Precision.FP16: (0, (1.5, 1.5)),
}
_MOST_TICKS = 6
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class NothingToDraw(Exception):
    """The run has no data for a plot; the message says what is missing."""


@dataclass(frozen=True)
class Subject:
    """A variant with its marks, which are the same in all plots."""

    digest: str
    label: str
    colour: str
    marker: str
    dash: Any
    ships: bool

    @classmethod
    def of(cls, variant: Variant, champion: str | None) -> Subject:
        """Give the marks of a variant."""
        precision = variant.precision
        return cls(
            digest=variant.digest,
            label=label_of(variant),
            colour=_COLOURS.get(precision, svg.REFERENCE),
            marker=_MARKERS.get(precision, "D"),
            dash=_DASHES.get(precision, "-"),
            ships=variant.digest == champion,
        )


@dataclass
class Material:
    """A run to draw from; each frame is read once."""

    run: Run
    _frames: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def subjects(self) -> list[Subject]:
        """The variants, in the order of the run."""
        champion = None if is_withheld(self.run.release) else self.run.document.champion
        return [Subject.of(variant, champion) for variant in self.run.release.variants]

    def measured(self, subject: Subject, metric: str) -> Measurement | None:
        """Give a measurement that has a value, else None."""
        found = self.run.metrics.get(subject.digest, {}).get(metric)
        return found if found is not None and found.value is not None else None

    def frame(self, name: str, *columns: str) -> pd.DataFrame:
        """Give a frame's rows of the variants.

        Raises:
            NothingToDraw: the run has no such frame, or it lacks rows or a column.
        """
        if name not in self._frames:
            try:
                self._frames[name] = self.run.frame(name)
            except InputError as problem:
                raise NothingToDraw(f"this run has no rows `{name}`") from problem
        rows = self._frames[name]
        if absent := [column for column in ("variant_id", *columns) if column not in rows]:
            raise NothingToDraw(f"the rows `{name}` have no column {', '.join(absent)}")
        rows = rows[rows["variant_id"].isin([subject.digest for subject in self.subjects])]
        if rows.empty:
            raise NothingToDraw(f"the rows `{name}` have none of a variant")
        return rows

    def by_subject(
        self,
        rows: pd.DataFrame,
        enough: Callable[[pd.DataFrame], bool] = lambda _: True,
        otherwise: str = "no variant has rows",
    ) -> Mapping[Subject, pd.DataFrame]:
        """Give the rows of each variant that has enough of them.

        Raises:
            NothingToDraw: no variant has; `otherwise` is its message.
        """
        parts = {subject: rows[rows["variant_id"] == subject.digest] for subject in self.subjects}
        found = {subject: part for subject, part in parts.items() if len(part) and enough(part)}
        if not found:
            raise NothingToDraw(otherwise)
        return found


@dataclass(frozen=True)
class Drawing:
    """A finished figure with what it shows, in words."""

    figure: Figure
    alternative: str


def power(value: float, _place: object = None) -> str:
    """Write a tick of a logarithmic axis: 10 to a whole number, nothing in between."""
    return f"10{str(round(value)).translate(_SUPERSCRIPTS)}"


def log_axis(axes: Axes, which: str, write: Callable[[float], str] | None = None) -> None:
    """Make an axis logarithmic, with few ticks and plain text on them."""
    import math

    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    # In plain figures 1, 2, 5: a range below one decade would else have one tick or none.
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if write else (1,), numticks=7))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: write(value) if write else power(math.log10(value)))
    )
    axis.set_minor_formatter(NullFormatter())


def doubling_axis(axes: Axes, values: Iterable[float], write: Callable[[float], str]) -> None:
    """Make the x axis logarithmic with a tick at each value, or at some where they crowd."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

    ticks = _apart(sorted(set(values), reverse=True))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([write(tick) for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _apart(ticks: list[float]) -> list[float]:
    """Leave out ticks that would touch their neighbour, the last one stays."""
    import math

    least = math.log2(ticks[0] / ticks[-1]) / _MOST_TICKS
    kept = ticks[:1]
    for tick in ticks[1:]:
        if math.log2(kept[-1] / tick) >= least:
            kept.append(tick)
    return kept


def legend_above(figure: Figure, handles: Sequence[Any], columns: int = 3) -> None:
    """Put the legend over the plot, where it hides nothing."""
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.2)


def line_of(subject: Subject, **marks: Any) -> Any:
    """Give a legend's line for a variant."""
    from matplotlib.lines import Line2D

    look = {"color": subject.colour, "linestyle": subject.dash, "label": subject.label}
    return Line2D([], [], **{**look, **marks})
