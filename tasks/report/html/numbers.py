"""Writing measurements for readers: percent, milliseconds, MB, with the interval beside the value.

Knows units and digits; which number matters is in `labels.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tasks.core.figures import MB, MIB, figure
from tasks.core.records import Measurement

MOST_DECIMALS = 4
_MINUS = "\N{MINUS SIGN}"
_GAP = "\N{NO-BREAK SPACE}"  # a number and its unit stay on one line,
_LONG_UNIT = "tokens/s"  # but for this one


class Kind(StrEnum):
    """How a number is written."""

    SHARE = "share"
    POINTS = "points"
    FACTOR = "factor"
    SECONDS = "seconds"
    MEMORY = "memory"
    DISK = "disk"
    TOKEN_RATE = "token rate"
    NATS = "nats"
    PLAIN = "plain"


class State(StrEnum):
    """Whether there is a number, and if not, whether there should be one."""

    MEASURED = "measured"
    ABSENT = "not measured"
    NOT_APPLICABLE = "does not apply"


@dataclass(frozen=True)
class Cell:
    """One measurement as it is shown.

    Attributes:
        value: with its unit, or the words of the state.
        interval: such as `[0.4, 0.6]`; empty for an exact number.
        n: number of observations, as text.
        method: how it was measured, or why there is no number.
    """

    value: str
    interval: str = ""
    n: str = ""
    method: str = ""
    state: State = State.MEASURED

    @property
    def is_measured(self) -> bool:
        """Whether there is a number."""
        return self.state is State.MEASURED

    @property
    def text(self) -> str:
        """The value with its interval."""
        return f"{self.value} {self.interval}".strip()


def cell_of(measurement: Measurement | None, kind: Kind | None = None) -> Cell:
    """Write a measurement; None reads as not reported.

    Args:
        measurement: what was found.
        kind: how to write it; None takes what its unit says.
    """
    if measurement is None:
        return Cell("not reported", method="no examination reported it", state=State.ABSENT)
    if measurement.value is None or not math.isfinite(measurement.value):
        state = State.ABSENT if measurement.applies else State.NOT_APPLICABLE
        method = measurement.method or "no reason given"
        return Cell(state.value, n=f"{measurement.n:,}", method=method, state=state)
    written = _WRITERS[kind or kind_by_unit(measurement.unit)](measurement.value, measurement.ci95)
    unit = _foreign_unit(measurement.unit) if kind in (None, Kind.PLAIN) else ""
    return Cell(
        value=f"{written[0]}{unit}",
        interval=written[1],
        n=f"{measurement.n:,}",
        method=measurement.method or "no method given",
    )


def limit_text(limit: float, kind: Kind | None, unit: str = "1") -> str:
    """Write the limit of a gate as its metric is written."""
    return cell_of(Measurement(value=limit, unit=unit), kind).value


def kind_by_unit(unit: str) -> Kind:
    """Choose how to write a number whose metric has no label of its own."""
    return {
        "s": Kind.SECONDS,
        "B": Kind.MEMORY,
        "nat": Kind.NATS,
    }.get(unit, Kind.PLAIN)


Interval = tuple[float, float] | None
Written = tuple[str, str]


def _foreign_unit(unit: str) -> str:
    return "" if unit in ("1", "s", "B", "nat") else f"{_GAP}{unit}"


def _fixed(value: float, interval: Interval, *, scale: float, unit: str, sign: str = "") -> Written:
    """Write value and bounds with as many decimals as the width of the interval is worth."""
    shown = value * scale
    bounds = tuple(bound * scale for bound in interval) if interval else ()
    decimals = _decimals(shown, bounds)

    def write(number: float) -> str:
        exact = number in (0.0, 100.0) or (not bounds and number == round(number))
        text = f"{number:{sign if number else ''},.{0 if exact else decimals}f}"
        return text.replace("-", _MINUS)

    return f"{write(shown)}{unit}", _brackets(bounds, write)


def _decimals(value: float, bounds: tuple[float, ...]) -> int:
    """Two digits of the interval's width; without one, two of the distance to 0 or 100."""
    finite = [bound for bound in bounds if math.isfinite(bound)]
    width = max(finite) - min(finite) if len(finite) == 2 else 0.0
    worth = width or min(abs(value), abs(100 - value)) or 1.0
    return max(0, min(MOST_DECIMALS, 1 - math.floor(math.log10(worth))))


def _brackets(bounds: tuple[float, ...], write: Callable[[float], str]) -> str:
    if not bounds:
        return ""
    low, high = ("no bound" if math.isinf(bound) else write(bound) for bound in bounds)
    return f"[{low}, {high}]"


def _share(value: float, interval: Interval) -> Written:
    if interval is None and value in (0.0, 1.0):
        return f"{value * 100:.0f}{_GAP}%", ""
    return _fixed(value, interval, scale=100, unit=f"{_GAP}%")


def _points(value: float, interval: Interval) -> Written:
    if value == 0 and interval is None:
        return f"0{_GAP}points", ""
    return _fixed(value, interval, scale=100, unit=f"{_GAP}points", sign="+")


def _figures(unit: str, scale: float = 1.0) -> Callable[[float, Interval], Written]:
    def write(value: float, interval: Interval) -> Written:
        bounds = interval or ()
        gap = " " if unit == _LONG_UNIT else _GAP if unit else ""
        return (
            f"{figure(value / scale)}{gap}{unit}",
            _brackets(bounds, lambda bound: figure(bound / scale)),
        )

    return write


def _seconds(value: float, interval: Interval) -> Written:
    largest = max(abs(value), *(abs(b) for b in interval or () if math.isfinite(b)), 0.0)
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if largest >= scale or unit == "µs":
            return _figures(unit, scale)(value, interval)
    raise AssertionError("the last unit takes all")


def _bytes(large: float, unit: str) -> Callable[[float, Interval], Written]:
    def write(value: float, interval: Interval) -> Written:
        # A leak of some bytes must not read as 5.6e-06 MiB.
        if abs(value) < large / 100:
            return _figures("B")(value, interval)
        return _figures(unit, large)(value, interval)

    return write


def _factor(value: float, interval: Interval) -> Written:
    text, bounds = _figures("")(value, interval)
    return f"×{text}", bounds  # noqa: RUF001  (the multiplication sign is meant)


_WRITERS: dict[Kind, Callable[[float, Interval], Written]] = {
    Kind.SHARE: _share,
    Kind.POINTS: _points,
    Kind.FACTOR: _factor,
    Kind.SECONDS: _seconds,
    Kind.MEMORY: _bytes(MIB, "MiB"),
    Kind.DISK: _bytes(MB, "MB"),
    Kind.TOKEN_RATE: _figures(_LONG_UNIT),
    Kind.NATS: _figures(""),
    Kind.PLAIN: _figures(""),
}
