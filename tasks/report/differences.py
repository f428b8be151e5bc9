"""How far apart one metric lies in two runs: question by question where the rows are there.

Gives differences with their intervals; whether one matters is decided in `compare.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.core.records import Digest, Measurement
from tasks.report.load import Run
from tasks.report.metric_kinds import Kind

if TYPE_CHECKING:
    import pandas as pd

SAMPLES, SEED = 2000, 0

_QUESTION = "question_id"
# Shares of questions by the column that says it of each answer.
_BY_ANSWER = {
    "answers.right": "right",
    "answers.format_valid": "valid_format",
    "answers.stopped": "stopped",
    "answers.json_valid": "json_ok",
    "answers.schema_valid": "schema_ok",
    "answers.loops": "loop",
    "answers.refusals": "refusal",
}
_FLIPS = {"answers.flip_rate", "answers.harm"}


@dataclass(frozen=True)
class Estimate:
    """A difference, after less before, with its interval."""

    difference: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Side:
    """One variant of one run."""

    run: Run
    variant: Digest

    @property
    def metrics(self) -> dict[str, Measurement]:
        """What was measured of it."""
        return self.run.metrics.get(self.variant, {})

    @cached_property
    def answers(self) -> pd.DataFrame | None:
        """Its answers, by question, with `was_right` of the reference; None where they are lost."""
        rows = self._rows("outputs")
        if rows is None:
            return None
        own = rows[rows["variant_id"] == self.variant].set_index(_QUESTION)
        others = set(self.run.precisions)
        reference = rows[(rows["suite"] == "reference") & ~rows["variant_id"].isin(others)]
        reference = reference.set_index(_QUESTION)
        if not (own.index.is_unique and reference.index.is_unique):
            return None
        return own.assign(was_right=reference["right"].reindex(own.index))

    @cached_property
    def divergences(self) -> pd.DataFrame | None:
        """Sum and number of its token divergences, by question; None where they are lost."""
        rows = self._rows("kld")
        if rows is None:
            return None
        own = rows[rows["variant_id"] == self.variant]
        if "corpus" in own:  # plain text has rows of its own there
            own = own[own["corpus"] == "questions"]
        return own.groupby(_QUESTION)["kld"].agg(["sum", "size"])

    def _rows(self, frame: str) -> pd.DataFrame | None:
        try:
            return self.run.frame(frame)
        except InputError:
            return None


def independent(first: Measurement, second: Measurement, kind: Kind) -> Estimate:
    """Take two intervals apart: square-and-add (Zou and Donner, Statistics in Medicine 27, 2008).

    The difference of two estimates lies as far from its value as the two distances to their own
    bounds, squared and added. On logarithms where the change is a factor and all is positive.
    Where both runs asked the same questions the two move together, and the interval is too wide
    rather than too narrow.
    """
    before, after = _bounds(first, kind), _bounds(second, kind)
    if first.ci95 is None and second.ci95 is None:
        if not kind.noise:
            change = after[0] - before[0]
            return Estimate(change, change, change, "two exact values")
        how = f"two single measurements, each taken to be within {kind.noise:.0%}; square-and-add"
        return Estimate(*_square_and_add(before, after), how)
    if not (kind.is_a_ratio(before[0]) and min(*before, *after) > 0):
        return Estimate(*_square_and_add(before, after), "two runs, square-and-add of intervals")
    logs = _square_and_add(
        tuple(map(math.log, before)),  # type: ignore[arg-type]
        tuple(map(math.log, after)),  # type: ignore[arg-type]
    )
    change, low, high = (before[0] * math.expm1(log) for log in logs)
    return Estimate(change, low, high, "two runs, square-and-add of log intervals")


def _bounds(measurement: Measurement, kind: Kind) -> tuple[float, float, float]:
    """Give value, lower and upper bound; an exact one three times, a single one with its noise."""
    value = float(measurement.value or 0.0)
    off = abs(value) * (kind.noise or 0.0)
    low, high = measurement.ci95 or (value - off, value + off)
    return value, min(low, value), max(high, value)


def _square_and_add(
    before: tuple[float, float, float], after: tuple[float, float, float]
) -> tuple[float, float, float]:
    change = after[0] - before[0]
    down = math.hypot(after[0] - after[1], before[2] - before[0])
    up = math.hypot(after[2] - after[0], before[0] - before[1])
    return change, change - down, change + up


def paired(name: str, before: Side, after: Side, first: Measurement) -> Estimate | None:
    """Compare question by question where both runs kept their rows; None where they can not be."""
    if name in _BY_ANSWER or name in _FLIPS:
        return _paired_answers(name, before, after)
    if name == "fidelity.kld_mean":
        return _paired_divergence(before, after, base=float(first.value or 0.0))
    return None


def _paired_answers(name: str, before: Side, after: Side) -> Estimate | None:
    from tasks.core.statistics import paired_difference

    if before.answers is None or after.answers is None:
        return None
    first, second = _flags(name, before.answers), _flags(name, after.answers)
    if first is None or second is None:
        return None
    first, second = first.align(second, join="inner")
    n = len(first)
    if n == 0:
        return None
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    low, high = paired_difference(gained, lost, n)
    method = f"paired over {n:,} questions, Bonett-Price adjusted Wald interval"
    return Estimate((gained - lost) / n, low, high, method)


def _flags(name: str, answers: pd.DataFrame) -> pd.Series[bool] | None:
    """Say of each answer whether the share counts it."""
    if name in _FLIPS:
        known = answers.dropna(subset=["was_right"])
        was, now = known["was_right"].astype(bool), known["right"].astype(bool)
        return was & ~now if name == "answers.harm" else was != now
    column = _BY_ANSWER[name]
    return answers[column].dropna().astype(bool) if column in answers else None


def _paired_divergence(before: Side, after: Side, *, base: float) -> Estimate | None:
    from tasks.core.statistics import cluster_ratio

    if before.divergences is None or after.divergences is None:
        return None
    first, second = before.divergences.add_suffix("_a"), after.divergences.add_suffix("_b")
    both = first.join(second, how="inner")
    # Other tokens are another tokenizer or other ideal answers: nothing to pair.
    if both.empty or (both["size_a"] != both["size_b"]).any() or not both["sum_a"].sum() > 0:
        return None
    interval = cluster_ratio(both["sum_b"], both["sum_a"], samples=SAMPLES, seed=SEED)
    if interval is None:
        return None
    ratio = float(both["sum_b"].sum() / both["sum_a"].sum())
    low, high = (base * (end - 1) for end in interval)
    method = f"ratio of means, bootstrap over {len(both):,} questions"
    return Estimate(base * (ratio - 1), low, high, method)
