"""A variant is held against the champion in place only where that compares like with like."""

from __future__ import annotations

import pytest

from tasks.core.records import (
    Conditions,
    ExaminationProfile,
    GateVerdict,
    Judgement,
    Measurement,
    Precision,
    VariantVerdict,
)
from tasks.judge.champion import ChampionMetrics, NoChampion
from tasks.judge.judge import NO_CHAMPION, judge_variants
from tests.golden.sample_release import INT4, INT8, PARAMETERS, between, variant
from tests.judged import POLICY, healthy

PASS, FAIL, INCONCLUSIVE = GateVerdict.PASS, GateVerdict.FAIL, GateVerdict.INCONCLUSIVE
CONDITIONS = Conditions(questions="9" * 64, profile=ExaminationProfile.STANDARD, revision=4)
FROM_ITS_VALUES = {"kld_to_champion", "right_to_champion", "format_to_champion"}
TIMED = {gate.name for gate in POLICY.gates if gate.champion_limit}
WORSE = {"fidelity.kld_mean": between(0.05, 0.04, 0.06)}  # within the limit, not the champion's

CHAMPION = ChampionMetrics(
    model_id="demo-int4-cpu:1",
    variant="1" * 64,
    precision=Precision.INT4,
    run_id="20261122T174902Z-demo-99575389",
    conditions=CONDITIONS,
    metrics=healthy(),
)


def judged(
    champion: ChampionMetrics | NoChampion,
    change: dict[str, Measurement] | None = None,
    conditions: Conditions | None = CONDITIONS,
) -> Judgement:
    variants = [variant(INT4, Precision.INT4, 1), variant(INT8, Precision.INT8, 2)]
    metrics = {INT4: healthy() | (change or {}), INT8: healthy()}
    return judge_variants(
        variants,
        metrics,
        POLICY,
        parameters=PARAMETERS,
        failures={},
        conditions=conditions,
        champion=champion,
    )


def of_int4(judgement: Judgement) -> VariantVerdict:
    return judgement.verdicts[0]


def with_(**changes: object) -> ChampionMetrics:
    return CHAMPION.model_copy(update=changes)


def test_model_as_good_as_the_champion_passes_every_gate_against_it() -> None:
    verdict = of_int4(judged(CHAMPION))
    asked = {gate.gate for gate in verdict.gates if gate.gate.endswith("_to_champion")}
    assert asked == FROM_ITS_VALUES | TIMED
    assert (verdict.verdict, verdict.not_asked) == (PASS, {})


def test_model_further_off_than_the_champion_fails_though_the_policys_own_limit_holds() -> None:
    judgement = judged(CHAMPION, WORSE)
    verdict = of_int4(judgement)
    failed = [gate for gate in verdict.gates if gate.verdict is FAIL]
    assert [gate.gate for gate in failed] == ["kld_to_champion"]
    assert failed[0].limit == 0.01
    assert failed[0].why.endswith("(demo-int4-cpu:1 reaches 0.00045)")
    assert judgement.champion == INT8
    assert any("keep the champion" in line for line in judgement.advice)


def test_fewer_right_answers_than_the_champions_fail() -> None:
    verdict = of_int4(judged(CHAMPION, {"answers.right": between(0.93, 0.91, 0.95)}))
    assert [gate.gate for gate in verdict.gates if gate.verdict is FAIL] == ["right_to_champion"]


def test_variant_that_is_slower_than_the_champion_fails_only_when_that_is_proven() -> None:
    unsure = of_int4(judged(CHAMPION, {"speed.ttft_to_champion": between(1.12, 0.9, 1.4)}))
    proven = of_int4(judged(CHAMPION, {"speed.ttft_to_champion": between(1.3, 1.2, 1.4)}))
    assert (unsure.verdict, proven.verdict) == (PASS, FAIL)


def test_other_precisions_are_held_against_what_users_get_and_nothing_else() -> None:
    verdict = judged(CHAMPION, WORSE).verdicts[1]
    reason = "there is no champion of INT8: demo-int4-cpu:1 is in place"
    assert verdict.not_asked == dict.fromkeys({"kld_to_champion"} | TIMED, reason)
    assert verdict.verdict is PASS


def test_checkpoint_that_answers_worse_does_not_ship_at_another_precision() -> None:
    better = {"answers.right": between(0.999, 0.998, 1.0)}
    champion = with_(precision=Precision.FP16, metrics=healthy() | better)
    judgement = judged(champion, {"answers.right": between(0.9, 0.88, 0.92)})
    assert of_int4(judgement).verdict is FAIL


NOT_ASKED = {
    "no champion": (NO_CHAMPION, FROM_ITS_VALUES | TIMED, "there is no champion yet"),
    "evidence lost": (
        NoChampion(reason="its evidence is lost"),
        FROM_ITS_VALUES | TIMED,
        "its evidence is lost",
    ),
    "itself": (with_(variant=INT4), FROM_ITS_VALUES | TIMED, "it is demo-int4-cpu:1 itself"),
    "other questions": (
        with_(conditions=CONDITIONS.model_copy(update={"questions": "7" * 64})),
        FROM_ITS_VALUES,
        "demo-int4-cpu:1 was examined on other questions",
    ),
    "other profile": (
        with_(conditions=CONDITIONS.model_copy(update={"profile": ExaminationProfile.SMOKE})),
        FROM_ITS_VALUES,
        "demo-int4-cpu:1 was examined with the profile smoke",
    ),
    "other code": (
        with_(conditions=CONDITIONS.model_copy(update={"revision": 3})),
        FROM_ITS_VALUES,
        "demo-int4-cpu:1 was examined by another version of the examinations",
    ),
    "older run": (
        with_(conditions=None),
        FROM_ITS_VALUES,
        "demo-int4-cpu:1 was examined under conditions that its run does not name",
    ),
}


@pytest.mark.parametrize(("champion", "gates", "reason"), NOT_ASKED.values(), ids=NOT_ASKED)
def test_what_does_not_compare_is_not_asked_and_the_reason_is_kept(
    champion: ChampionMetrics | NoChampion, gates: set[str], reason: str
) -> None:
    verdict = of_int4(judged(champion, WORSE))
    assert verdict.not_asked == dict.fromkeys(gates, reason)
    assert verdict.verdict is PASS


def test_metric_that_the_champion_lacks_is_not_asked() -> None:
    unmeasured = healthy() | {"fidelity.kld_mean": Measurement(value=None, method="killed")}
    verdict = of_int4(judged(with_(metrics=unmeasured), WORSE))
    reason = "fidelity.kld_mean of demo-int4-cpu:1: not measured: killed"
    assert verdict.not_asked == {"kld_to_champion": reason}


def test_metric_that_the_variant_lacks_fails_against_the_champion_too() -> None:
    verdict = of_int4(judged(CHAMPION, {"answers.format_valid": Measurement(value=None)}))
    assert [gate.gate for gate in verdict.gates if gate.verdict is FAIL] == ["format_to_champion"]


def test_without_conditions_of_its_own_nothing_is_held_against_the_champion() -> None:
    assert set(of_int4(judged(CHAMPION, WORSE, conditions=None)).not_asked) == FROM_ITS_VALUES
