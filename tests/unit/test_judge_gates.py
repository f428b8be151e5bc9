"""One gate against one measurement: an interval decides, and what is not measured fails."""

from __future__ import annotations

import math
import random

import pytest

from tasks.core.records import SHIPPABLE, GateResult, GateVerdict, Measurement, Precision, Severity
from tasks.judge.judge import judge_gate
from tasks.judge.policy import Gate
from tests.judged import ABSOLUTE, POLICY, RELATIVE

PASS, FAIL, INCONCLUSIVE = GateVerdict.PASS, GateVerdict.FAIL, GateVerdict.INCONCLUSIVE
PARAMETERS = 3_000_000_000
ORDER = [FAIL, INCONCLUSIVE, PASS]

every_gate = pytest.mark.parametrize("gate", ABSOLUTE, ids=lambda gate: gate.name)
every_relative_gate = pytest.mark.parametrize("gate", RELATIVE, ids=lambda gate: gate.name)
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


# ---------------------------------------------------------------- an undecided gate


def test_undecided_gate_blocks_unless_its_policy_says_that_a_loss_must_be_proven() -> None:
    for gate in ABSOLUTE:
        limit = gate.limit_for(Precision.INT4, PARAMETERS)
        undecided = judged(gate, measured(limit - 1, limit + 1), Precision.INT4)
        assert (undecided.verdict, undecided.severity) == (INCONCLUSIVE, gate.inconclusive)
        failed = judged(gate, Measurement(value=None), Precision.INT4)
        assert (failed.verdict, failed.severity) == (FAIL, gate.severity)


def test_policy_has_gates_that_only_a_proven_loss_blocks() -> None:
    proven = {
        gate.name
        for gate in POLICY.gates
        if (gate.severity, gate.inconclusive) == (Severity.BLOCK, Severity.WARN)
    }
    times = {gate.name for gate in POLICY.gates if gate.champion_limit}
    assert times <= proven
    assert proven - times <= {"kld_growth", "found_delta"}


# ---------------------------------------------------------------- against the champion


@every_precision
@every_relative_gate
def test_model_that_equals_the_champion_passes(gate: Gate, precision: Precision) -> None:
    for low, high in ((0.1, 0.3), (0.9, 0.97), (-0.4, -0.2), (0.0, 0.0)):
        limit = gate.limit_from(precision, (low, high))
        assert judge_gate(gate, measured(low, high), limit).verdict is PASS


@every_relative_gate
def test_model_that_is_far_worse_than_the_champion_fails(gate: Gate) -> None:
    limit = gate.limit_from(Precision.INT4, (0.4, 0.5))
    far = measured(*sorted((0.45 + worse(gate) * 0.4, 0.45 + worse(gate) * 0.3)))
    assert judge_gate(gate, far, limit).verdict is FAIL


@every_relative_gate
def test_better_champion_never_asks_for_less(gate: Gate) -> None:
    draw = random.Random(9)
    for _ in range(200):
        low, width, step = draw.uniform(-1, 1), draw.uniform(0, 1), draw.uniform(0, 1)
        shift = -worse(gate) * step
        before = gate.limit_from(Precision.INT4, (low, low + width))
        after = gate.limit_from(Precision.INT4, (low + shift, low + width + shift))
        assert worse(gate) * after <= worse(gate) * before + 1e-12


def test_limit_from_the_champion_takes_the_far_end_of_its_interval() -> None:
    kld = next(gate for gate in RELATIVE if gate.name == "kld_to_champion")
    right = next(gate for gate in RELATIVE if gate.name == "right_to_champion")
    assert kld.limit_from(Precision.INT4, (0.02, 0.04)) == pytest.approx(1.25 * 0.04)
    assert right.limit_from(Precision.INT4, (0.90, 0.96)) == pytest.approx(0.90 - 0.02)


def test_champion_that_is_all_but_lossless_does_not_make_noise_a_failure() -> None:
    kld = next(gate for gate in RELATIVE if gate.name == "kld_to_champion")
    limit = kld.limit_from(Precision.FP16, (0.7e-10, 1.5e-10))
    assert judge_gate(kld, measured(2e-10, 4e-10), limit).verdict is PASS
    assert judge_gate(kld, measured(2e-4, 4e-4), limit).verdict is FAIL
