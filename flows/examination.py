"""The examination of all variants: each on its own first, then all against the same clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypedDict

from flows.champion import ChampionInPlace
from flows.fan_out import Settled, first_failures, result_of, settle
from flows.preflight import Order
from tasks.core.errors import IngotError
from tasks.core.records import (
    Checkpoint,
    Environment,
    Evidence,
    Judgement,
    Measurement,
    Variant,
)
from tasks.examine.protocol import Protocol
from tasks.examine.soak.task import soak_variant
from tasks.examine.speed.tune import Tuned
from tasks.examine.task import (
    examine_edges,
    examine_reference,
    examine_variant,
    measure_speed,
)
from tasks.foundry.task import stage_variant
from tasks.judge.judge import undecided_by_questions
from tasks.judge.task import judge_variants


@dataclass(frozen=True)
class Subjects:
    """What is examined, where, and who answers in production now."""

    checkpoint: Checkpoint
    reference: Variant
    tuned: Tuned
    environment: Environment
    before: ChampionInPlace

    @property
    def variants(self) -> list[Variant]:
        """The variants, each with the setting that it is fastest with."""
        return self.tuned.variants

    @property
    def rival(self) -> Variant | None:
        """The variant in production, to be timed beside the new ones; None if it is one of them.

        Or the second run of a checkpoint would time it all anew: the first made a champion.
        """
        before = self.before.variant
        known = {variant.digest for variant in self.variants}
        return before if before and before.digest not in known else None


class _Common(TypedDict):
    """What every examination is told."""

    protocol: Protocol
    environment: Environment


@dataclass(frozen=True)
class Examination:
    """What is known of the variants.

    Attributes:
        metrics: by variant digest, then by metric name; those of the reference are in each.
        failures: precision, or `speed`, to why it could not be examined or timed.
        yardsticks: by variant digest, what the reference did on the questions of its second look;
            the others were judged by the first, and keep it.
    """

    reference: Evidence
    evidence: list[Evidence]
    variants: list[Variant]
    failures: dict[str, IngotError]
    yardsticks: dict[str, Evidence] = field(default_factory=dict)

    @property
    def all_evidence(self) -> list[Evidence]:
        """The evidence of reference and variants; of the reference that of the last look."""
        return [next(iter(self.yardsticks.values()), self.reference), *self.evidence]

    @property
    def metrics(self) -> dict[str, dict[str, Measurement]]:
        """What was measured of each variant."""
        return {variant.digest: self._metrics_of(variant.digest) for variant in self.variants}

    def _metrics_of(self, digest: str) -> dict[str, Measurement]:
        found = dict(self.yardsticks.get(digest, self.reference).metrics)
        for part in self.evidence:
            if part.subject == digest:
                found.update(part.metrics)
        return found

    def updated(self, later: Settled[Evidence]) -> Examination:
        """Give the same with later evidence in the place of that of the same suite and variant."""
        new = list(later.results.values())
        replaced = {(part.suite, part.subject) for part in new}
        kept = [part for part in self.evidence if (part.suite, part.subject) not in replaced]
        return replace(self, evidence=[*kept, *new], failures={**self.failures, **later.failures})


def examine_and_judge(
    subjects: Subjects, order: Order, failures: dict[str, IngotError]
) -> tuple[Examination, Judgement]:
    """Examine and judge every variant, and look once more where only questions are wanting.

    Args:
        subjects: the variants.
        order: questions, protocol and policy.
        failures: precision to why it could not be built.

    Raises:
        IngotError: the reference could not be examined; without it nothing can be compared.
    """
    first = examine_all(subjects, order)
    judgement = _judged(subjects, order, first, failures)
    second = order.protocol.second_look()
    undecided = undecided_by_questions(judgement)
    if second is None or not undecided:
        return first, judgement
    # Declared before the first look, and both share the error of one (`Protocol.for_questions`).
    variants = [variant for variant in subjects.variants if variant.digest in undecided]
    try:
        yardstick, asked = _answered(subjects, order, variants, second)
    except IngotError as problem:  # the first look stands, and decided what it could
        return replace(first, failures={**first.failures, "second look": problem}), judgement
    own = {part.subject: yardstick for part in asked.results.values()}
    both = replace(first.updated(asked), yardsticks=own)
    return both, _judged(subjects, order, both, failures)


def examine_all(subjects: Subjects, order: Order) -> Examination:
    """Examine every variant; what could not be measured is missing, and missing never passes."""
    yardstick, examined = _answered(subjects, order, subjects.variants, order.protocol)
    able = {
        variant.precision.value: variant
        for variant in subjects.variants
        if _decodes(examined.results.get(variant.precision))
    }
    groups = [examined, *_strained(subjects, order, able), _timed(subjects, order, able)]
    return Examination(
        reference=yardstick,
        evidence=[
            *subjects.tuned.evidence,
            *(part for group in groups for part in group.results.values()),
        ],
        variants=subjects.variants,
        failures=first_failures(groups),
    )


def _judged(
    subjects: Subjects, order: Order, found: Examination, failures: dict[str, IngotError]
) -> Judgement:
    return judge_variants(
        subjects.variants,
        found.metrics,
        order.policy,
        parameters=subjects.checkpoint.parameters,
        failures={name: str(problem) for name, problem in (failures | found.failures).items()},
        most_questions=order.protocol.most_questions,
        conditions=order.conditions,
        champion=subjects.before.metrics,
    )


def _answered(
    subjects: Subjects, order: Order, variants: list[Variant], protocol: Protocol
) -> tuple[Evidence, Settled[Evidence]]:
    """Compare variants with the reference on the questions, side by side."""
    checkpoint, reference = subjects.checkpoint, subjects.reference
    common = _Common(protocol=protocol, environment=subjects.environment)
    yardstick = result_of(
        examine_reference.submit(checkpoint, reference, order.questions, **common),
        "examine reference",
    )
    futures = {
        variant.precision.value: examine_variant.submit(
            checkpoint, reference, yardstick, variant, order.questions, **common
        )
        for variant in variants
    }
    return yardstick, settle(futures, "examine")


def _strained(
    subjects: Subjects, order: Order, able: dict[str, Variant]
) -> list[Settled[Evidence]]:
    """Put odd input to every variant, in the engine and in Foundry Local, and let it run long."""
    checkpoint, questions = subjects.checkpoint, order.questions
    common = _Common(protocol=order.protocol, environment=subjects.environment)
    edges = {k: examine_edges.submit(checkpoint, v, **common) for k, v in able.items()}
    soaked = {k: soak_variant.submit(checkpoint, v, **common) for k, v in able.items()}
    staged = {
        k: stage_variant.submit(
            checkpoint,
            v,
            questions,
            load_cycles=order.protocol.load_cycles,
            environment=subjects.environment,
        )
        for k, v in able.items()
    }
    return [settle(edges, "edge cases"), settle(staged, "stage"), settle(soaked, "soak")]


def _decodes(evidence: Evidence | None) -> bool:
    if evidence is None:
        return False
    parity = evidence.metrics.get("decode.kld_mean")
    return parity is not None and parity.value is not None


def _timed(subjects: Subjects, order: Order, able: dict[str, Variant]) -> Settled[Evidence]:
    """Time alone: nothing else of this flow runs meanwhile."""
    if not able:
        return Settled()
    try:
        speed = result_of(
            measure_speed.submit(
                list(able.values()),
                subjects.rival,
                protocol=order.protocol,
                environment=subjects.environment,
            ),
            "measure speed",
        )
    except IngotError as problem:
        return Settled(failures={"speed": problem})
    return Settled(results={part.subject: part for part in speed.evidence})
