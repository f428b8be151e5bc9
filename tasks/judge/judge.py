"""Deciding from numbers alone which variant ships.

Nothing here measures, builds or registers, and nothing is ever asked twice: a gate that were
judged again until it passes would be no gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.core.questions import MOST_QUESTIONS
from tasks.core.records import (
    SHIPPABLE,
    Conditions,
    Digest,
    GateResult,
    GateVerdict,
    Judgement,
    Measurement,
    Severity,
    Variant,
    VariantVerdict,
)
from tasks.judge.advice import advise, reason_for
from tasks.judge.case import Case, interval_of, why_unusable
from tasks.judge.champion import ChampionMetrics, Limit, NoChampion, limit_from_champion
from tasks.judge.policy import Gate, Policy
from tasks.judge.policy_file import Operator

NO_CHAMPION = NoChampion()


@dataclass(frozen=True)
class _Terms:
    """What limits are made from, the same for all variants."""

    parameters: int
    champion: ChampionMetrics | NoChampion
    conditions: Conditions | None


def judge_variants(
    variants: list[Variant],
    metrics: Mapping[Digest, Mapping[str, Measurement]],
    policy: Policy,
    *,
    parameters: int,
    failures: Mapping[str, str],
    most_questions: int = MOST_QUESTIONS,
    conditions: Conditions | None = None,
    champion: ChampionMetrics | NoChampion = NO_CHAMPION,
) -> Judgement:
    """Hold every variant against every gate, and name the smallest that passes.

    Args:
        variants: what was built; the FP32 reference may be among them and is not judged.
        metrics: by variant digest, then by metric name. What was measured once for all (the
            reference, the template) must be in each variant's table: what is not there FAILS.
        policy: the gates.
        parameters: of the checkpoint; small models have their own limits.
        failures: precision to the reason why it could not be built or examined. A variant of
            such a precision fails, whatever was measured before. Other keys, such as `speed`, are
            named in reason and advice and fail no variant by themselves.
        most_questions: that are ever asked; advice asks for no more.
        conditions: what the metrics were measured with; without them no variant can be held
            against the champion.
        champion: of the same name, or why there is none.
    """
    terms = _Terms(parameters=parameters, champion=champion, conditions=conditions)
    cases = [
        Case(
            variant=variant,
            metrics=metrics.get(variant.digest, {}),
            verdict=_judge_variant(
                variant,
                metrics.get(variant.digest, {}),
                policy,
                terms,
                failed=variant.precision.value in failures,
            ),
        )
        for variant in variants
        if variant.precision in SHIPPABLE
    ]
    ships = _smallest_passing(cases, policy)
    return Judgement(
        champion=ships.variant.digest if ships else None,
        verdicts=[case.verdict for case in cases],
        reason=reason_for(ships, cases, failures, policy.switched_off),
        advice=advise(cases, failures, most_questions),
    )


def undecided_by_questions(judgement: Judgement) -> set[Digest]:
    """Name the variants that only answers to more questions keep from a verdict.

    Where something else is undecided too, no number of questions lets the variant ship.
    """
    return {
        verdict.variant
        for verdict in judgement.verdicts
        if verdict.verdict is GateVerdict.INCONCLUSIVE
        and all(
            gate.metric.startswith(("answers.", "fidelity."))
            for gate in verdict.gates
            if gate.verdict is GateVerdict.INCONCLUSIVE and gate.severity is Severity.BLOCK
        )
    }


def judge_gate(
    gate: Gate, measurement: Measurement | None, limit: float, *, origin: str = ""
) -> GateResult:
    """Hold one measurement against one limit, by its 95 % interval where it has one.

    Not measured, not a number, an interval upside down or over no observation: all FAIL.

    Args:
        gate: what is asked.
        measurement: what was seen.
        limit: for this variant.
        origin: what the limit was made from, where the policy alone does not say.
    """
    unusable = why_unusable(measurement)
    if measurement is None or unusable:
        verdict, why = GateVerdict.FAIL, unusable
    else:
        verdict = _compare(gate.operator, interval_of(measurement), limit)
        why = f"{gate.why} ({origin})" if origin else gate.why
    return GateResult(
        gate=gate.name,
        metric=gate.metric,
        operator=gate.operator,
        limit=limit,
        severity=gate.inconclusive if verdict is GateVerdict.INCONCLUSIVE else gate.severity,
        verdict=verdict,
        measurement=measurement,
        why=why,
    )


def _judge_variant(
    variant: Variant,
    metrics: Mapping[str, Measurement],
    policy: Policy,
    terms: _Terms,
    *,
    failed: bool,
) -> VariantVerdict:
    results: list[GateResult] = []
    not_asked: dict[str, str] = {}
    for gate in policy.enabled_gates:
        found = metrics.get(gate.metric)
        limit = _limit(gate, variant, found, terms)
        if isinstance(limit, str):
            not_asked[gate.name] = limit
        else:
            results.append(judge_gate(gate, found, limit.value, origin=limit.origin))
    return VariantVerdict(
        variant=variant.digest,
        precision=variant.precision,
        verdict=GateVerdict.FAIL if failed else _overall(results),
        gates=results,
        not_asked=not_asked,
    )


def _limit(
    gate: Gate, variant: Variant, measurement: Measurement | None, terms: _Terms
) -> Limit | str:
    """Give the limit of a gate for a variant, or the reason why the gate is not asked."""
    if measurement is not None and not measurement.applies:
        return measurement.method or "there is nothing to measure"
    if gate.asks_champion:
        return limit_from_champion(gate, variant, terms.champion, terms.conditions)
    return Limit(gate.limit_for(variant.precision, terms.parameters))


def _overall(results: list[GateResult]) -> GateVerdict:
    """Add blocking gates up: one FAIL fails, one INCONCLUSIVE keeps from passing, none fails."""
    found = {result.verdict for result in results if result.severity is Severity.BLOCK}
    for worst in (GateVerdict.FAIL, GateVerdict.INCONCLUSIVE):
        if worst in found:
            return worst
    return GateVerdict.PASS if found else GateVerdict.FAIL


def _smallest_passing(cases: list[Case], policy: Policy) -> Case | None:
    passing = [case for case in cases if case.verdict.verdict is GateVerdict.PASS]
    return min(
        passing,
        key=lambda case: (case.variant.size_bytes, policy.order.index(case.variant.precision)),
        default=None,
    )


def _compare(operator: Operator, interval: tuple[float, float], limit: float) -> GateVerdict:
    low, high = interval
    if operator == ">=":  # the mirror image of "<="
        low, high, limit = -high, -low, -limit
    if high <= limit:
        return GateVerdict.PASS
    return GateVerdict.FAIL if low > limit else GateVerdict.INCONCLUSIVE
