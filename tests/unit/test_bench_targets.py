"""A promise is kept by a figure, and never by the lack of one."""

from __future__ import annotations

import math

import pytest

from benchmarks.arithmetic import Figure
from benchmarks.sections import SECTIONS
from benchmarks.targets import TARGETS, Target, Verdict

LESS = Target("start-up", "help_s", "help", 0.3)
MORE = Target("decode", "int4_over_q4_0", "decode", 1.5, at_most=False)


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (LESS, 0.3, Verdict.KEPT),
        (LESS, 0.31, Verdict.MISSED),
        (MORE, 1.5, Verdict.KEPT),
        (MORE, 1.49, Verdict.MISSED),
        (LESS, math.nan, Verdict.MISSED),
        (MORE, math.nan, Verdict.MISSED),
    ],
)
def test_figure_is_held_against_the_limit(target: Target, value: float, verdict: Verdict) -> None:
    assert target.verdict(Figure(value, value, value, 5)) is verdict


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.section} {target.figure}")
@pytest.mark.parametrize("figure", [None, Figure.missing("no compiler"), Figure.of({})])
def test_missing_figure_is_no_pass(target: Target, figure: Figure | None) -> None:
    assert target.verdict(figure) is Verdict.NOT_MEASURED


def test_every_target_is_of_a_section() -> None:
    assert {target.section for target in TARGETS} <= {section.name for section in SECTIONS}
