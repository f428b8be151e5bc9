"""One gate against one measurement: an interval decides, and what is not measured fails."""

from __future__ import annotations

import math
import random

import pytest

from tasks.core.records import SHIPPABLE, GateResult, GateVerdict, Measurement, Precision
from tasks.judge.judge import judge_gate
from tasks.judge.policy import Gate, load_policy

PASS, FAIL, INCONCLUSIVE = GateVerdict.PASS, GateVerdict.FAIL, GateVerdict.INCONCLUSIVE
PARAMETERS = 3_000_000_000
ORDER = [FAIL, INCONCLUSIVE, PASS]

every_gate = pytest.mark.parametrize("gate", load_policy().gates, ids=lambda gate: gate.name)
every_precision = pytest.mark.parametrize("precision", SHIPPABLE)


def measured(low: float, high: float) -> Measurement:
    return Measurement(value=(low + high) / 2, ci95=(low, high), n=100)


def judged(gate: Gate, measurement: Measurement | None, precision: Precision) -> GateResult:
    return judge_gate(gate, measurement, gate.limit_for(precision, PARAMETERS))


def worse(gate: Gate) -> int:
    """Give the direction in which the gate's metric gets worse."""
    return 1 if gate.operator == "<=" else -1


@every_precision
@every_gate
def test_every_gate_passes_at_its_limit_and_fails_just_beyond(
    gate: Gate, precision: Precision
) -> None:
    limit = gate.limit_for(precision, PARAMETERS)
    beyond = math.nextafter(limit, worse(gate) * math.inf)
    assert judged(gate, Measurement(value=limit), precision).verdict is PASS
    assert judged(gate, Measurement(value=beyond), precision).verdict is FAIL


@every_precision
@every_gate
def test_every_gate_judges_the_interval_not_the_point(gate: Gate, precision: Precision) -> None:
    limit, step = gate.limit_for(precision, PARAMETERS), 0.01 * worse(gate)
    inside = measured(*sorted((limit - 2 * step, limit - step)))
    across = measured(*sorted((limit - step, limit + step / 2)))
    outside = measured(*sorted((limit + step, limit + 2 * step)))
    verdicts = [judged(gate, m, precision).verdict for m in (inside, across, outside)]
    assert verdicts == [PASS, INCONCLUSIVE, FAIL]


@every_gate
def test_interval_that_only_touches_the_limit_from_beyond_is_undecided(gate: Gate) -> None:
    limit = gate.limit_for(Precision.INT4, PARAMETERS)
    touching = measured(*sorted((limit, limit + worse(gate))))
    assert judged(gate, touching, Precision.INT4).verdict is INCONCLUSIVE


@every_gate
def test_every_gate_fails_when_nothing_was_measured(gate: Gate) -> None:
    unmeasured = Measurement(value=None, method="the tool crashed")
    absent = judged(gate, None, Precision.INT4)
    empty = judged(gate, unmeasured, Precision.INT4)
    assert (absent.verdict, absent.measurement) == (FAIL, None)
    assert (empty.verdict, empty.measurement) == (FAIL, unmeasured)
    assert empty.why == "not measured: the tool crashed"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (Measurement(value=math.nan), "not a number"),
        (Measurement(value=0.0, ci95=(0.0, math.nan)), "not a number"),
        (Measurement(value=0.0, ci95=(0.1, -0.1)), "its interval is upside down"),
        (Measurement(value=0.0, n=0), "no observation"),
    ],
)
@every_gate
def test_every_gate_fails_on_a_measurement_that_says_nothing(
    gate: Gate, broken: Measurement, why: str
) -> None:
    result = judged(gate, broken, Precision.INT8)
    assert (result.verdict, result.why) == (FAIL, why)


@every_gate
def test_a_worse_measurement_never_gets_a_better_verdict(gate: Gate) -> None:
    limit, draw = gate.limit_for(Precision.INT4, PARAMETERS), random.Random(7)
    for _ in range(200):
        low = limit + draw.uniform(-1, 1)
        before = measured(low, low + draw.uniform(0, 1))
        shift = worse(gate) * draw.uniform(0, 1)
        assert before.ci95 is not None
        after = measured(before.ci95[0] + shift, before.ci95[1] + shift)
        verdicts = [judged(gate, m, Precision.INT4).verdict for m in (before, after)]
        assert ORDER.index(verdicts[0]) >= ORDER.index(verdicts[1])


@every_gate
def test_a_wider_interval_never_passes_where_a_narrow_one_did_not(gate: Gate) -> None:
    limit, draw = gate.limit_for(Precision.INT4, PARAMETERS), random.Random(8)
    for _ in range(200):
        low = limit + draw.uniform(-1, 1)
        narrow = measured(low, low + draw.uniform(0, 1))
        assert narrow.ci95 is not None
        wide = measured(narrow.ci95[0] - draw.random(), narrow.ci95[1] + draw.random())
        if judged(gate, narrow, Precision.INT4).verdict is not PASS:
            assert judged(gate, wide, Precision.INT4).verdict is not PASS
