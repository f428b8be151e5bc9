"""Every gate that does not pass comes with something to try, and the plan of n is right."""

from __future__ import annotations

import math

import pytest

from tasks.core.records import GateResult, GateVerdict, Measurement, Precision, Severity
from tasks.core.statistics import paired_difference, wilson
from tasks.judge.advice import _more_questions, _needed, observations_needed
from tasks.judge.judge import judge_variants
from tasks.judge.policy import Gate
from tasks.judge.remedies import REMEDIES
from tests.golden.sample_release import (
    INT4,
    INT8,
    PARAMETERS,
    between,
    exact,
    variant,
)
from tests.judged import ABSOLUTE, POLICY, healthy


def advice_for(
    change: dict[str, Measurement],
    precision: Precision = Precision.INT4,
    failures: dict[str, str] | None = None,
    **recipe: object,
) -> list[str]:
    one = variant(INT4, precision, 1_500_000, **recipe)
    metrics = {INT4: healthy() | change}
    return judge_variants(
        [one], metrics, POLICY, parameters=PARAMETERS, failures=failures or {}
    ).advice


def test_no_advice_where_all_is_well() -> None:
    assert advice_for({}) == []


@pytest.mark.parametrize("precision", [Precision.INT4, Precision.INT8, Precision.FP16])
@pytest.mark.parametrize("gate", ABSOLUTE, ids=lambda gate: gate.name)
def test_every_failing_gate_gets_particular_advice(gate: Gate, precision: Precision) -> None:
    limit = gate.limit_for(precision, PARAMETERS)
    beyond = limit + (5 if gate.operator == "<=" else -5)
    advice = advice_for({gate.metric: exact(beyond)}, precision)
    assert any(gate.name in line for line in advice)
    assert not any(REMEDIES[-1].text in line for line in advice)


def test_int4_that_lost_quality_is_built_with_the_quality_profile() -> None:
    (line,) = advice_for({"answers.flip_rate": between(0.16, 0.13, 0.19)})
    assert line.startswith("INT4 (flip_rate): rebuild with the profile quality")


def test_int4_that_already_mixes_int8_gets_other_advice() -> None:
    (line,) = advice_for(
        {"answers.flip_rate": between(0.16, 0.13, 0.19)}, int8_head=True, int8_layers=True
    )
    assert "block_size 16" in line


def test_checkpoint_that_never_knew_is_not_blamed_on_quantisation() -> None:
    (line,) = advice_for(
        {
            "answers.right": between(0.5, 0.45, 0.55),
            "answers.right_reference": between(0.51, 0.46, 0.56),
        }
    )
    assert "train the checkpoint further" in line


def test_answers_that_do_not_stop_point_at_eos_only_when_eos_is_missing() -> None:
    endless = {"answers.stopped_ratio": between(0.1, 0.08, 0.12)}
    (lacking,) = advice_for({**endless, "template.eos_missing": exact(1)})
    assert lacking.startswith("INT4 (template_eos, stopped_ratio): add the template's end-of-turn")
    assert "eos_token_id" not in "".join(advice_for(endless))


def test_gates_with_one_remedy_share_one_line_across_variants() -> None:
    changed = {"template.text_mismatches": exact(3)}
    both = [variant(INT4, Precision.INT4, 1), variant(INT8, Precision.INT8, 2)]
    metrics = {digest: healthy() | changed for digest in (INT4, INT8)}
    judgement = judge_variants(both, metrics, POLICY, parameters=PARAMETERS, failures={})
    (line,) = judgement.advice
    assert line.startswith("INT4, INT8 (template_text): rewrite the chat template with trims")


def test_long_lists_of_gates_are_cut_and_counted() -> None:
    one = variant(INT4, Precision.INT4, 1)
    (line,) = judge_variants([one], {}, POLICY, parameters=PARAMETERS, failures={}).advice
    assert f"and {len(ABSOLUTE) - 3} more)" in line


def test_failed_precision_gets_its_reason_instead_of_a_list_of_missing_metrics() -> None:
    unmeasured = {"answers.right": Measurement(value=None)}
    advice = advice_for(unmeasured, failures={"int4": "no memory."})
    assert advice == ["INT4 failed, mend that first: no memory."]


def test_what_was_not_measured_is_measured_again_by_the_same_command() -> None:
    (line,) = advice_for({"answers.right": Measurement(value=None, method="killed")})
    assert "run the same command again: what was not measured is measured again" in line


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("answers.recovery", "lies in the questions or the checkpoint"),
        ("fidelity.top1_decisive", "lies in the questions or the checkpoint"),
        ("build.rotary_difference", "compare rope_theta"),
        ("build.rotary_rows_missing", "lower it, or max_position_embeddings"),
        ("guided.invalid", "answers are not cut at their length limit"),
    ],
)
def test_what_cannot_be_measured_is_not_asked_for_again(metric: str, words: str) -> None:
    (line,) = advice_for({metric: Measurement(value=None, method="no", final=True)})
    assert words in line
    assert "not measured is measured again" not in line


def test_undecided_gate_says_how_many_questions_would_settle_it() -> None:
    (line,) = advice_for({"answers.flip_rate": between(0.08, 0.05, 0.13, n=100)})
    assert line == (
        "INT4 (flip_rate): undecided; about 320 questions instead of 100 would settle it."
    )


def test_undecided_token_metric_says_how_many_times_the_questions() -> None:
    (line,) = advice_for({"fidelity.kld_mean": between(0.18, 0.15, 0.21, n=9000)})
    assert line == (
        "INT4 (kld_mean): undecided; about 4.6 times as many questions would settle it "
        "(a fuller examination profile measures more)."
    )


def test_undecided_gate_whose_value_is_beyond_the_limit_gets_a_remedy_too() -> None:
    first, second = advice_for({"answers.flip_rate": between(0.14, 0.10, 0.18)})
    assert "would most likely confirm a failure" in first
    assert "profile quality" in second


@pytest.mark.parametrize(("discordant", "margin"), [(0.07, 0.05), (0.07, 0.03), (0.02, 0.02)])
def test_plan_agrees_with_the_formula_for_paired_shares(discordant: float, margin: float) -> None:
    n = 100
    half = 1.96 * math.sqrt(discordant / n)
    seen = Measurement(value=0.0, ci95=(-half, half), n=n)
    needed = observations_needed(seen, -margin)
    assert needed == pytest.approx(7.84 * discordant / margin**2, rel=0.02)


@pytest.mark.parametrize(("n", "limit"), [(60, 0.02), (20, 0.05)])
def test_plan_for_no_event_is_enough_for_the_wilson_interval(n: int, limit: float) -> None:
    seen = Measurement(value=0.0, ci95=wilson(0, n), n=n)
    needed = observations_needed(seen, limit)
    assert needed is not None
    assert wilson(0, needed)[1] <= limit
    assert wilson(0, needed // 2)[1] > limit


def test_plan_for_no_flip_is_enough_for_the_paired_interval() -> None:
    seen = between(0.0, *paired_difference(0, 0, 60), n=60)
    change = {"answers.delta": seen, "answers.flip_rate": between(0.0, 0.0, 0.06, n=60)}
    (line,) = advice_for(change)
    assert "about 92 questions instead of 60 would settle it" in line
    assert paired_difference(0, 0, 92)[0] >= -0.03


def test_no_plan_where_more_would_settle_nothing() -> None:
    assert observations_needed(between(0.12, 0.1, 0.14), 0.12) is None
    assert observations_needed(exact(1), 0) is None
    assert observations_needed(Measurement(value=None), 0) is None


def test_variant_gets_one_number_of_questions_the_largest_that_a_gate_needs() -> None:
    unchanged = Measurement(value=0.0, ci95=(-0.0449, 0.0449), n=60)
    gates = [
        GateResult(
            gate=name,
            metric=f"answers.{name}",
            operator=">=",
            limit=limit,
            severity=Severity.BLOCK,
            verdict=GateVerdict.INCONCLUSIVE,
            measurement=unchanged,
            why="",
        )
        for name, limit in (("delta", -0.03), ("format_delta", -0.02))
    ]
    needs = [(gate, _needed(gate) or 0) for gate in gates]
    assert max(needed for _, needed in needs) == needs[1][1] < 150
    text = _more_questions(needs, 1000)
    assert text == "undecided; about 140 questions instead of 60 would settle it"


def test_more_questions_than_are_ever_asked_are_not_advised() -> None:
    gate = GateResult(
        gate="flip_rate",
        metric="answers.flip_rate",
        operator="<=",
        limit=0.0001,
        severity=Severity.BLOCK,
        verdict=GateVerdict.INCONCLUSIVE,
        measurement=Measurement(value=0.0, ci95=(0.0, 0.00447), n=856),
        why="",
    )
    assert "at most 2,000 are asked" in _more_questions([(gate, 39_000)], 2000)
    assert "at most" not in _more_questions([(gate, 1_900)], 2000)


# ---------------------------------------------------------------- the gates beyond the questions

GATED = {gate.metric for gate in POLICY.gates}
POINTS_AT = {
    "build.bits_mismatches": (exact(3), "the graph is not what its recipe says"),
    "build.rotary_difference": (exact(1.4), "rope_theta"),
    "build.rotary_rows_missing": (exact(36), "max_position_embeddings"),
    "answers.loops_delta": (between(0.2, 0.15, 0.25), "run in circles"),
    "answers.wrong_script": (exact(2), "int8_head"),
    "guided.invalid": (exact(1), "constrained decoding must not be able to fail"),
    "lengths.kld_growth": (between(3.0, 2.5, 3.5), "keep prompts short"),
    "lengths.latency_misfit": (exact(0.4), "time jumps"),
    "edge.failures": (exact(1), "what was expected"),
    "soak.heap_growth_bytes": (between(16415, 16400, 16430), "a leak"),
    "soak.anon_growth_bytes": (between(19058, 18777, 19396), "a leak"),
    "soak.thread_growth": (exact(2), "file handles are left behind"),
    "foundry.reload_growth_bytes": (exact(1e9), "keep the model loaded"),
    "speed.aa_different": (exact(1), "no absolute speed of this run counts"),
}


@pytest.mark.parametrize("metric", [m for m in POINTS_AT if m in GATED])
def test_advice_points_at_the_cause(metric: str) -> None:
    measurement, words = POINTS_AT[metric]
    (line,) = advice_for({metric: measurement})
    assert words in line


def test_undecided_warning_asks_nothing_of_anyone() -> None:
    assert advice_for({"fidelity.kld_p99": between(1.9, 1.5, 2.5)}) == []
    assert len(advice_for({"fidelity.kld_p99": between(2.4, 2.2, 2.5)})) == 1


@pytest.mark.parametrize(
    ("metric", "measurement", "unit"),
    [
        ("soak.heap_growth_bytes", between(6000, 5000, 7000, n=600), "generations"),
        ("answers.flip_rate", between(0.08, 0.05, 0.13, n=100), "questions"),
    ],
)
def test_undecided_gate_names_what_more_of_would_settle_it(
    metric: str, measurement: Measurement, unit: str
) -> None:
    lines = [line for line in advice_for({metric: measurement}) if "undecided" in line]
    assert metric not in GATED or f"{unit} instead of {measurement.n}" in lines[0]
