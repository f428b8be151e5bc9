"""From gates to a champion: the smallest variant that passes every blocking gate, or none."""

from __future__ import annotations

import itertools
import random

import pytest

from tasks.core.records import (
    GateVerdict,
    Judgement,
    Measurement,
    Precision,
    Severity,
    Variant,
    VariantVerdict,
)
from tasks.judge.judge import judge_variants, undecided_by_questions
from tasks.judge.policy import Policy
from tests.golden.sample_release import (
    FP16,
    INT4,
    INT8,
    PARAMETERS,
    between,
    exact,
    variant,
)
from tests.judged import POLICY, healthy

PASS, FAIL, INCONCLUSIVE = GateVerdict.PASS, GateVerdict.FAIL, GateVerdict.INCONCLUSIVE
VARIANTS = [
    variant(INT4, Precision.INT4, 1_500_000),
    variant(INT8, Precision.INT8, 1_900_000),
    variant(FP16, Precision.FP16, 2_300_000),
]
FLIPPED = {"answers.flip_rate": between(0.16, 0.13, 0.19)}
UNDECIDED = {"answers.flip_rate": between(0.04, 0.01, 0.13)}

Table = dict[str, Measurement]


def judgement_of(
    *changes: Table,
    variants: list[Variant] = VARIANTS,
    policy: Policy = POLICY,
    failures: dict[str, str] | None = None,
) -> Judgement:
    """Judge healthy variants, each with its changes to the measurements."""
    tables = itertools.zip_longest(variants, changes, fillvalue={})
    metrics = {v.digest: healthy() | change for v, change in tables}
    return judge_variants(variants, metrics, policy, parameters=PARAMETERS, failures=failures or {})


def verdicts(judgement: Judgement) -> list[GateVerdict]:
    return [verdict.verdict for verdict in judgement.verdicts]


def test_smallest_of_those_that_pass_ships() -> None:
    judgement = judgement_of()
    assert verdicts(judgement) == [PASS, PASS, PASS]
    assert judgement.champion == INT4
    assert judgement.reason == "INT4 ships: smallest of 3 that pass, 0.44 of the source."


def test_next_larger_ships_when_the_smallest_fails_and_the_reason_says_by_how_much() -> None:
    judgement = judgement_of(FLIPPED)
    assert judgement.champion == INT8
    assert "INT4 fails flip_rate (0.16 [0.13, 0.19] > 0.12)" in judgement.reason


def test_smaller_wins_over_the_order_of_precisions() -> None:
    swollen = variant(INT4, Precision.INT4, 5_000_000)
    assert judgement_of(variants=[swollen, *VARIANTS[1:]]).champion == INT8


def test_order_of_the_policy_decides_between_equal_sizes() -> None:
    equal = [variant(v.digest, v.precision, 1_000_000) for v in VARIANTS]
    reversed_order = POLICY.model_copy(update={"order": POLICY.order[::-1]})
    assert judgement_of(variants=equal[::-1]).champion == INT4
    assert judgement_of(variants=equal, policy=reversed_order).champion == FP16


def test_undecided_variant_does_not_ship() -> None:
    judgement = judgement_of(UNDECIDED, UNDECIDED, UNDECIDED)
    assert verdicts(judgement) == [INCONCLUSIVE] * 3
    assert judgement.champion is None
    assert "INT4 is undecided on flip_rate (0.04 [0.01, 0.13], limit 0.12)" in judgement.reason


def test_one_failure_outweighs_all_that_is_undecided() -> None:
    fails = FLIPPED | {"answers.right": between(0.82, 0.75, 0.9)}
    assert verdicts(judgement_of(fails))[0] is FAIL


def test_nothing_ships_when_nothing_was_measured() -> None:
    judgement = judge_variants(VARIANTS, {}, POLICY, parameters=PARAMETERS, failures={})
    assert verdicts(judgement) == [FAIL] * 3
    assert judgement.champion is None
    assert "build_bits (not measured)" in judgement.reason


METRICS_ASKED = {gate.metric for gate in POLICY.gates if not gate.asks_champion}


@pytest.mark.parametrize("metric", sorted(METRICS_ASKED))
def test_any_missing_metric_keeps_a_variant_from_passing_unless_it_only_warns(metric: str) -> None:
    metrics = {v.digest: healthy() for v in VARIANTS}
    del metrics[INT4][metric]
    judgement = judge_variants(VARIANTS, metrics, POLICY, parameters=PARAMETERS, failures={})
    blocks = any(g.metric == metric and g.severity is Severity.BLOCK for g in POLICY.gates)
    assert (verdicts(judgement)[0] is FAIL) == blocks


# ---------------------------------------------------------------- what does not apply

NOTHING_THERE = Measurement(value=None, n=0, method="no question asks for JSON", applies=False)


@pytest.mark.parametrize("metric", sorted(METRICS_ASKED))
def test_gate_on_what_does_not_apply_is_not_asked_and_the_verdict_says_why(metric: str) -> None:
    judgement = judgement_of({metric: NOTHING_THERE})
    verdict = judgement.verdicts[0]
    about = {gate.name for gate in POLICY.gates if gate.metric == metric}
    assert verdict.verdict is PASS
    assert {name: verdict.not_asked[name] for name in about} == dict.fromkeys(
        about, "no question asks for JSON"
    )
    assert not about & {gate.gate for gate in verdict.gates}


@pytest.mark.parametrize("final", [False, True])
def test_what_could_not_be_measured_is_asked_all_the_same(final: bool) -> None:
    lack = Measurement(value=None, method="killed", final=final)
    judgement = judgement_of({"answers.right": lack})
    assert verdicts(judgement) == [FAIL, PASS, PASS]


def test_variant_of_which_nothing_blocking_can_be_asked_fails() -> None:
    metrics = {INT4: dict.fromkeys((gate.metric for gate in POLICY.gates), NOTHING_THERE)}
    judgement = judge_variants(VARIANTS[:1], metrics, POLICY, parameters=PARAMETERS, failures={})
    assert verdicts(judgement) == [FAIL]
    assert judgement.reason == (
        "Nothing ships: INT4 fails: not one blocking gate could be asked and decided."
    )


def test_warnings_alone_pass_nothing() -> None:
    blocking = [gate.metric for gate in POLICY.gates if gate.severity is Severity.BLOCK]
    table = healthy() | dict.fromkeys(blocking, NOTHING_THERE)
    judgement = judge_variants(
        VARIANTS[:1], {INT4: table}, POLICY, parameters=PARAMETERS, failures={}
    )
    assert {gate.severity for gate in judgement.verdicts[0].gates} == {Severity.WARN}
    assert verdicts(judgement) == [FAIL]


# ---------------------------------------------------------------- who is looked at again


def test_only_variants_that_more_answers_can_settle_are_looked_at_again() -> None:
    torn = UNDECIDED | {"foundry.reload_growth_bytes": between(1e5, 0, 1e6)}
    judgement = judgement_of(UNDECIDED, torn, FLIPPED | UNDECIDED)
    assert verdicts(judgement) == [INCONCLUSIVE] * 3
    assert undecided_by_questions(judgement) == {INT4, FP16}


def test_variants_that_pass_or_fail_are_not_looked_at_again() -> None:
    fails = UNDECIDED | {"answers.right": between(0.5, 0.4, 0.6)}
    assert undecided_by_questions(judgement_of({}, fails, FLIPPED)) == set()


def test_failed_warnings_never_block() -> None:
    warned = {"fidelity.kld_p99": exact(99.0), "fidelity.ppl_ratio": exact(99.0)}
    judgement = judgement_of(warned)
    assert judgement.champion == INT4
    failed = {gate.gate for gate in judgement.verdicts[0].gates if gate.verdict is FAIL}
    assert failed == {"kld_p99", "ppl_ratio"}


def test_variant_that_could_not_be_examined_fails_whatever_its_numbers_say() -> None:
    judgement = judgement_of(failures={"int4": "does not decode. Next: rebuild."})
    assert verdicts(judgement) == [FAIL, PASS, PASS]
    assert judgement.champion == INT8
    assert judgement.reason.endswith("; INT4 failed: does not decode.")


def test_other_failures_are_named_and_block_no_precision() -> None:
    judgement = judgement_of(failures={"speed": "the clock was lost"})
    assert judgement.champion == INT4
    assert judgement.reason.endswith("; speed could not be measured: the clock was lost.")
    assert verdicts(judgement) == [PASS, PASS, PASS]
    (advice,) = judgement.advice
    assert advice.startswith(
        "speed could not be measured: the clock was lost. Run the same command"
    )


def test_reference_is_never_judged_and_never_ships() -> None:
    reference = variant("3" * 64, Precision.FP32, 10)
    judgement = judgement_of(variants=[reference, *VARIANTS])
    assert judgement.champion == INT4
    assert "3" * 64 not in {verdict.variant for verdict in judgement.verdicts}


def test_no_variant_at_all_has_a_reason_too() -> None:
    assert judgement_of(variants=[]).reason == "Nothing ships: no variant was built."


def test_gate_that_is_switched_off_is_not_asked_and_the_reason_says_so() -> None:
    gates = [g.model_copy(update={"enabled": g.name != "flip_rate"}) for g in POLICY.gates]
    judgement = judgement_of(FLIPPED, policy=POLICY.model_copy(update={"gates": gates}))
    assert judgement.champion == INT4
    assert "(the policy switches off flip_rate)" in judgement.reason


def test_small_models_may_differ_more_at_four_bits() -> None:
    changed = {"fidelity.kld_mean": between(0.15, 0.14, 0.16)}
    metrics = {INT4: healthy() | changed}
    small, big = (
        judge_variants(VARIANTS[:1], metrics, POLICY, parameters=parameters, failures={})
        for parameters in (999_999_999, 1_000_000_000)
    )
    assert (small.champion, big.champion) == (INT4, None)


def test_each_size_class_has_its_limit() -> None:
    metrics = {INT4: healthy() | {"fidelity.kld_mean": between(0.1, 0.09, 0.11)}}
    ships = [
        judge_variants(VARIANTS[:1], metrics, POLICY, parameters=parameters, failures={}).champion
        for parameters in (1_000_000_000, 3_999_999_999, 4_000_000_000)
    ]
    assert ships == [INT4, INT4, None]


def test_champion_always_passes_and_none_smaller_does() -> None:
    draw = random.Random(3)
    for _ in range(100):
        changes = [_random_changes(draw) for _ in VARIANTS]
        judgement = judgement_of(*changes)
        passing = [v.variant for v in judgement.verdicts if v.verdict is PASS]
        assert judgement.champion == (passing[0] if passing else None)
        assert all(_adds_up(verdict) for verdict in judgement.verdicts)


def _random_changes(draw: random.Random) -> Table:
    changes: Table = {}
    for gate in draw.sample(POLICY.gates, draw.randint(0, 2)):
        centre, width = draw.uniform(-0.3, 1.2), draw.uniform(0, 0.3)
        changes[gate.metric] = between(centre, centre - width, centre + width)
    return changes


def _adds_up(verdict: VariantVerdict) -> bool:
    blocking = [g.verdict for g in verdict.gates if g.severity is Severity.BLOCK]
    return (verdict.verdict is PASS) == (set(blocking) == {PASS})
