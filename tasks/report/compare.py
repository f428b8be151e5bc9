"""What changed between two runs, metric by metric: regressed, better, the same, or can't tell.

Judges changes by their interval against what is no change in practice (`metric_kinds.py`), never
by a bare difference; whether a change is acceptable is the policy's matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TypeGuard

from tasks.core.errors import InputError
from tasks.core.figures import NOT_MEASURED
from tasks.core.records import SHIPPABLE, Digest, Measurement, Precision, Record
from tasks.report.differences import Estimate, Side, independent, paired
from tasks.report.load import Run
from tasks.report.metric_kinds import Kind, Said, kind_of

# What is not comparable between two machines, and of that, what a busy machine spoils too. Peaks
# of memory came out within 0.6 % on a machine that was busy for a third of the time.
ON_THE_MACHINE = ("speed.*", "memory.*", "energy.*", "soak.*", "lengths.latency_misfit",
                  "foundry.reload_growth_bytes")  # fmt: skip
BY_THE_CLOCK = ("speed.*", "energy.*", "soak.decode_*", "lengths.latency_misfit")
# What two runs time one after the other. That invents differences: the same weights came out at
# 1.36, 0.76 and 1.14 (measured). Within one run `*_to_champion` says it.
ONE_AFTER_THE_OTHER = ("speed.*", "energy.*")
# What is measured on other scenarios, lengths, texts or generations in another profile.
BY_THE_PROFILE = ("speed.*", "memory.*", "soak.*", "text.*", "lengths.*", "foundry.reload_*")
# What depends on which questions were asked.
ON_QUESTIONS = ("answers.*", "guided.*", "fidelity.*", "lengths.*", "reference.*", "decode.*")


class Verdict(StrEnum):
    """What became of a metric."""

    REGRESSED = "regressed"
    BETTER = "better"
    SAME = "same"
    CANT_TELL = "can't tell"


class Change(Record):
    """One metric in two runs.

    Attributes:
        before, after: as the runs measured it; None where one did not report it.
        difference: after less before; after over before where it is said as a ratio.
        interval: of the difference, 95 %.
        margin: a difference within it is none in practice; of a ratio, its distance from 1.
        method: how the interval was made, or why there is none.
    """

    metric: str
    verdict: Verdict
    before: Measurement | None
    after: Measurement | None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    said: Said = "difference"
    margin: float = 0.0
    method: str


class Comparison(Record):
    """Two variants of one precision."""

    before: Digest
    after: Digest
    changes: list[Change]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many metrics came out how."""
        found = [change.verdict for change in self.changes]
        return {verdict: found.count(verdict) for verdict in Verdict}


_SAME_BYTES = "the same bytes in both runs: what differs is the machine, not the variant"
_TWO_HOURS = (
    "timed in two runs, one after the other, and no variant of the same bytes came out the same in "
    "both; time them in one run, where speed.*_to_champion compares them"
)
_IDENTICAL = Estimate(0.0, 0.0, 0.0, "one measurement of the same bytes, in both runs")


def compare_runs(before: Run, after: Run) -> dict[Precision, Comparison]:
    """Compare every precision that both runs built, metric by metric.

    Raises:
        InputError: they have no precision in common.
    """
    pairs = {
        precision: (Side(before, a), Side(after, b))
        for precision in SHIPPABLE
        for a in _digests(before, precision)
        for b in _digests(after, precision)
    }
    if not pairs:
        raise InputError(
            "the two runs have no precision in common",
            expected=f"one of {', '.join(_labels(before)) or 'none'}, as in {before.run_id}",
            got=f"{', '.join(_labels(after)) or 'none'} in {after.run_id}",
        )
    return {precision: compare_sides(*sides) for precision, sides in pairs.items()}


def compare_sides(before: Side, after: Side) -> Comparison:
    """Compare two variants on all metrics that say how good they are, in the order of the runs."""
    names = dict.fromkeys([*before.metrics, *after.metrics])
    changes = [_change(name, before, after) for name in names]
    return Comparison(
        before=before.variant,
        after=after.variant,
        changes=[change for change in changes if change is not None],
    )


def _digests(run: Run, precision: Precision) -> list[Digest]:
    return [digest for digest, found in run.precisions.items() if found is precision]


def _labels(run: Run) -> list[str]:
    return [precision.value.upper() for precision in run.precisions.values()]


# ---------------------------------------------------------------- one metric


def _change(name: str, before: Side, after: Side) -> Change | None:
    """Compare one metric; None where there is nothing to compare, in either run."""
    first, second = before.metrics.get(name), after.metrics.get(name)
    kind = kind_of(name)
    if (kind and kind.better is None) or not (_applies(first) or _applies(second)):
        return None
    if kind and first == second and before.variant == after.variant and _has_value(first):
        return _judged(name, kind, first, first, _IDENTICAL)
    reason = _why_not(name, before, after)
    if kind is None:
        reason = "this version of Ingot does not know which direction is better"
    if reason or kind is None or first is None or second is None:
        return _cant_tell(name, first, second, reason)
    estimate = paired(name, before, after, first) or independent(first, second, kind)
    change = _judged(name, kind, first, second, estimate)
    reason = _only_the_clock(change, kind, before, after)
    return _cant_tell(name, first, second, reason) if reason else change


def _cant_tell(
    name: str, first: Measurement | None, second: Measurement | None, reason: str
) -> Change:
    return Change(metric=name, verdict=Verdict.CANT_TELL, before=first, after=second, method=reason)


def _only_the_clock(change: Change, kind: Kind, before: Side, after: Side) -> str:
    """Say why a change of times may be that of the hour, not of the variant; else empty.

    The same bytes are as fast as themselves, so they are never worse or better by the clock. Other
    bytes are compared where some variant of the same bytes ran in both runs, was timed anew and
    came out the same: then the hours were alike.
    """
    if before.variant == after.variant:
        unlike = change.verdict in (Verdict.REGRESSED, Verdict.BETTER)
        return _SAME_BYTES if unlike and _is(change.metric, BY_THE_CLOCK) else ""
    if not _is(change.metric, ONE_AFTER_THE_OTHER) or _hours_were_alike(
        change.metric, kind, before, after
    ):
        return ""
    return _TWO_HOURS


def _hours_were_alike(name: str, kind: Kind, before: Side, after: Side) -> bool:
    both = set(before.run.metrics) & set(after.run.metrics)
    pairs = [(before.run.metrics[one].get(name), after.run.metrics[one].get(name)) for one in both]
    found = [
        _judged(name, kind, first, second, independent(first, second, kind)).verdict
        for first, second in pairs
        # One measurement that both runs share was not timed twice.
        if _has_value(first) and _has_value(second) and first != second
    ]
    return bool(found) and set(found) == {Verdict.SAME}


def _judged(
    name: str, kind: Kind, first: Measurement, second: Measurement, estimate: Estimate
) -> Change:
    base = float(first.value or 0.0)
    margin = kind.margin(base)
    said: Said = kind.said if kind.is_a_ratio(base) or kind.said != "ratio" else "difference"
    shown = (estimate.difference, estimate.low, estimate.high)
    if said == "ratio":
        shown = (1 + shown[0] / base, 1 + shown[1] / base, 1 + shown[2] / base)
    return Change(
        metric=name,
        verdict=_verdict(kind, estimate, margin),
        before=first,
        after=second,
        difference=shown[0],
        interval=shown[1:],
        said=said,
        margin=margin / base if said == "ratio" else margin,
        method=estimate.method,
    )


def _verdict(kind: Kind, estimate: Estimate, margin: float) -> Verdict:
    """Decide by where the whole interval lies: inside the margin, beyond it, or across."""
    if -margin <= estimate.low and estimate.high <= margin:
        return Verdict.SAME
    rose, fell = estimate.low > margin, estimate.high < -margin
    if not (rose or fell):
        return Verdict.CANT_TELL
    return Verdict.BETTER if rose == (kind.better == "higher") else Verdict.REGRESSED


def _has_value(measurement: Measurement | None) -> TypeGuard[Measurement]:
    return measurement is not None and measurement.value is not None


def _applies(measurement: Measurement | None) -> bool:
    return measurement is not None and measurement.applies


def _why_not(name: str, before: Side, after: Side) -> str:
    """Say why two values of a metric can not be compared; empty when they can."""
    for label, side in (("A", before), ("B", after)):
        measurement = side.metrics.get(name)
        if measurement is None:
            return f"only {'B' if label == 'A' else 'A'} reports it"
        if not measurement.applies:
            return f"it does not apply to {label}: {measurement.method}"
        if measurement.value is None or math.isnan(measurement.value):
            return f"{label}: {NOT_MEASURED}, {measurement.method or 'no reason was given'}"
    if _is(name, ON_QUESTIONS) and _questions(before.run) != _questions(after.run):
        return "they were asked other questions"
    return (
        _other_workload(name, before, after)
        or _other_machine(name, before, after)
        or _noise_unknown(name, before, after)
    )


def _noise_unknown(name: str, before: Side, after: Side) -> str:
    kind = kind_of(name)
    values = [side.metrics.get(name) for side in (before, after)]
    if kind is None or kind.noise is not None or all(found and found.ci95 for found in values):
        return ""
    return "measured once in each run, and nobody knows how far one measurement of it is off"


def _other_workload(name: str, before: Side, after: Side) -> str:
    """Say why other profiles measure another thing: other scenarios, lengths, texts."""
    if not _is(name, BY_THE_PROFILE):
        return ""
    profiles = [side.run.release.conditions for side in (before, after)]
    a, b = (found.profile if found else None for found in profiles)
    return "" if a == b else f"A was examined with the profile {a}, B with {b}"


def _other_machine(name: str, before: Side, after: Side) -> str:
    if not _is(name, ON_THE_MACHINE):
        return ""
    if before.run.release.environment.machine_class != after.run.release.environment.machine_class:
        return "measured on machines of two classes"
    if not _is(name, BY_THE_CLOCK):
        return ""
    for label, side in (("A", before), ("B", after)):
        if doubt := _unfair_clock(side):
            return f"{label}'s clock was not fair: {doubt}"
    return ""


def _unfair_clock(side: Side) -> str:
    """Say why no absolute time of a run counts; empty when it does."""
    different = side.metrics.get("speed.aa_different")
    if different is not None and different.value is None:
        return "nobody knows, the same weights were not timed twice"
    if different is not None and different.value:
        return "the same weights timed twice came out different"
    contended = any(
        note.startswith("contended")
        for part in side.run.evidence
        for note in part.notes
        if part.suite == "speed"
    )
    return "the machine was contended" if contended else ""


def _questions(run: Run) -> str | None:
    return run.release.questions.digest if run.release.questions else None


def _is(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
