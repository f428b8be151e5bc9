"""One variant on trial: its measurements, its verdict, and what a measurement can say at all.

Knows numbers; no limit and no advice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.core.figures import NOT_MEASURED
from tasks.core.records import (
    GateResult,
    GateVerdict,
    Measurement,
    Severity,
    Variant,
    VariantVerdict,
)


@dataclass(frozen=True)
class Case:
    """One variant with its measurements and its verdict."""

    variant: Variant
    metrics: Mapping[str, Measurement]
    verdict: VariantVerdict

    @property
    def label(self) -> str:
        """Precision as people write it."""
        return self.verdict.precision.value.upper()

    @property
    def worth_advice(self) -> list[GateResult]:
        """Gates that did not pass; a warning only when it is sure."""
        unpassed = [gate for gate in self.verdict.gates if gate.verdict is not GateVerdict.PASS]
        return [
            gate
            for gate in unpassed
            if gate.severity is Severity.BLOCK or gate.verdict is GateVerdict.FAIL
        ]

    @property
    def blockers(self) -> list[GateResult]:
        """Gates that keep the variant from shipping."""
        return [gate for gate in self.worth_advice if gate.severity is Severity.BLOCK]


def interval_of(measurement: Measurement) -> tuple[float, float]:
    """Give the 95 % interval, or the point twice where a count is exact."""
    if measurement.ci95 is not None:
        return measurement.ci95
    value = measurement.value if measurement.value is not None else math.nan
    return value, value


def why_unusable(measurement: Measurement | None) -> str:
    """Say why nothing can be concluded from a measurement; empty when something can."""
    if measurement is None:
        return f"{NOT_MEASURED}: no examination reported it"
    if measurement.value is None:
        return f"{NOT_MEASURED}: {measurement.method or 'no reason was given'}"
    low, high = interval_of(measurement)
    if any(math.isnan(number) for number in (measurement.value, low, high)):
        return "not a number"
    if low > high:
        return "its interval is upside down"
    return "no observation" if measurement.n < 1 else ""
