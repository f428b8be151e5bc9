"""Deciding from numbers alone which variant ships.

Nothing here measures, builds or registers, and nothing is ever asked twice: a gate that were
judged again until it passes would be no gate.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.core.records import (
    SHIPPABLE,
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
from tasks.judge.policy import Gate, Operator, Policy


def judge_variants(
    variants: list[Variant],
    metrics: Mapping[Digest, Mapping[str, Measurement]],
    policy: Policy,
    *,
    parameters: int,
    failures: Mapping[str, str],
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
    """
    cases = [
        Case(
            variant=variant,
            metrics=metrics.get(variant.digest, {}),
            verdict=_judge_variant(
                variant,
                metrics.get(variant.digest, {}),
                policy,
                parameters=parameters,
                failed=variant.precision.value in failures,
            ),
        )
        for variant in variants
        if variant.precision in SHIPPABLE
    ]
    champion = _smallest_passing(cases, policy)
    return Judgement(
        champion=champion.variant.digest if champion else None,
        verdicts=[case.verdict for case in cases],
        reason=reason_for(champion, cases, failures, policy.switched_off),
        advice=advise(cases, failures),
    )


def judge_gate(gate: Gate, measurement: Measurement | None, limit: float) -> GateResult:
    """Hold one measurement against one limit, by its 95 % interval where it has one.

    Not measured, not a number, an interval upside down or over no observation: all FAIL.
    """
    unusable = why_unusable(measurement)
    if measurement is None or unusable:
        verdict, why = GateVerdict.FAIL, unusable
    else:
        verdict, why = _compare(gate.operator, interval_of(measurement), limit), gate.why
    return GateResult(
        gate=gate.name,
        metric=gate.metric,
        operator=gate.operator,
        limit=limit,
        severity=gate.severity,
        verdict=verdict,
        measurement=measurement,
        why=why,
    )


def _judge_variant(
    variant: Variant,
    metrics: Mapping[str, Measurement],
    policy: Policy,
    *,
    parameters: int,
    failed: bool,
) -> VariantVerdict:
    results = [
        judge_gate(gate, metrics.get(gate.metric), gate.limit_for(variant.precision, parameters))
        for gate in policy.enabled_gates
    ]
    return VariantVerdict(
        variant=variant.digest,
        precision=variant.precision,
        verdict=GateVerdict.FAIL if failed else _overall(results),
        gates=results,
    )


def _overall(results: list[GateResult]) -> GateVerdict:
    """Add blocking gates up: one FAIL fails, one INCONCLUSIVE keeps from passing."""
    found = {result.verdict for result in results if result.severity is Severity.BLOCK}
    for worst in (GateVerdict.FAIL, GateVerdict.INCONCLUSIVE):
        if worst in found:
            return worst
    return GateVerdict.PASS


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
