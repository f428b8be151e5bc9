"""The examination of all variants: each on its own first, then all against the same clock."""

from __future__ import annotations

from dataclasses import dataclass

from flows.fan_out import Settled, first_failures, result_of, settle
from tasks.core.errors import IngotError
from tasks.core.records import (
    Checkpoint,
    Environment,
    Evidence,
    Measurement,
    QuestionFile,
    Variant,
)
from tasks.examine.protocol import Protocol
from tasks.examine.task import examine_reference, examine_variant, measure_speed
from tasks.foundry.task import stage_variant


@dataclass(frozen=True)
class Examination:
    """What is known of the variants.

    Attributes:
        metrics: by variant digest, then by metric name.
        failures: precision, or `speed`, to why it could not be examined or timed.
    """

    evidence: list[Evidence]
    metrics: dict[str, dict[str, Measurement]]
    failures: dict[str, IngotError]


def examine_all(
    checkpoint: Checkpoint,
    reference: Variant,
    built: list[Variant],
    questions: QuestionFile,
    environment: Environment,
) -> Examination:
    """Examine every variant; what could not be measured is missing, and missing never passes.

    Raises:
        IngotError: the reference could not be examined; without it nothing can be compared.
    """
    protocol = Protocol.standard()
    yardstick = result_of(
        examine_reference.submit(
            checkpoint, reference, questions, protocol=protocol, environment=environment
        ),
        "examine reference",
    )
    examined = settle(
        {
            variant.precision.value: examine_variant.submit(
                checkpoint,
                reference,
                yardstick,
                variant,
                questions,
                protocol=protocol,
                environment=environment,
            )
            for variant in built
        },
        "examine",
    )
    able = [variant for variant in built if _decodes(examined.results.get(variant.precision))]
    staged = settle(
        {
            variant.precision.value: stage_variant.submit(
                checkpoint, variant, questions, environment=environment
            )
            for variant in able
        },
        "stage",
    )
    timed = _timed(able, protocol, environment)
    evidence = [*examined.results.values(), *staged.results.values(), *timed.results.values()]
    return Examination(
        evidence=[yardstick, *evidence],
        metrics={variant.digest: _metrics(variant, yardstick, evidence) for variant in built},
        failures=first_failures([examined, staged, timed]),
    )


def _decodes(evidence: Evidence | None) -> bool:
    if evidence is None:
        return False
    parity = evidence.metrics.get("decode.kld_mean")
    return parity is not None and parity.value is not None


def _timed(able: list[Variant], protocol: Protocol, environment: Environment) -> Settled[Evidence]:
    """Time alone: nothing else of this flow runs meanwhile."""
    if not able:
        return Settled()
    try:
        speed = result_of(
            measure_speed.submit(able, protocol=protocol, environment=environment),
            "measure speed",
        )
    except IngotError as problem:
        return Settled(failures={"speed": problem})
    return Settled(results={part.subject: part for part in speed.evidence})


def _metrics(
    variant: Variant, yardstick: Evidence, evidence: list[Evidence]
) -> dict[str, Measurement]:
    found = dict(yardstick.metrics)
    for part in evidence:
        if part.subject == variant.digest:
            found.update(part.metrics)
    return found
