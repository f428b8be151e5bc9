"""Writing numbers for people, in one way everywhere: verdicts, report, terminal, web page.

Knows digits and units; which number matters belongs to the callers.
"""

from __future__ import annotations

import math

from tasks.core.records import Measurement

NOT_MEASURED = "not measured"
MB = 1_000_000
MIB = 1024 * 1024


def figure(value: float | None) -> str:
    """Write a number: 3 significant digits, whole numbers in full, tiny ones as 1.2e-06.

    Close to 1 its distance from 1 gets two digits: a share of 0.9996 must not read as 1.
    """
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{value:+}"
    if value == 0:
        return "0"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3g}"
    if 0.9 < value < 1.1:
        digits = min(6, 1 - math.floor(math.log10(abs(value - 1))))
        return f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return f"{value:.3g}"


def figure_of(measurement: Measurement | None, *, scale: float = 1.0) -> str:
    """Write a measurement with its 95 % interval, such as `0.16 [0.13, 0.19]`.

    Args:
        measurement: None reads as not measured.
        scale: what the number is divided by first, such as 2**20 for MiB.
    """
    if measurement is None or measurement.value is None:
        return NOT_MEASURED
    text = figure(measurement.value / scale)
    if measurement.ci95 is None:
        return text
    low, high = measurement.ci95
    return f"{text} [{figure(low / scale)}, {figure(high / scale)}]"
