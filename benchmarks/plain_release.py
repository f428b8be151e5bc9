"""The steps of a release called one after the other, without Prefect: what orchestration costs.

`python -m benchmarks.plain_release CHECKPOINT NAME PROFILE`. The same plain functions in the same
order and as wide as the flow (`flows/release.py`, `flows/examination.py`), with nothing cached,
retried, queued for memory, watched or shown. Not a second way to release.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from flows.parameters import ReleaseRequest
from flows.preflight import Order, check_request
from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.housekeeping import clear_leftovers
from tasks.core.questions import load_question_file
from tasks.core.records import (
    Checkpoint,
    Digest,
    Environment,
    Evidence,
    ExaminationProfile,
    Judgement,
    Measurement,
    Precision,
    Registration,
    Release,
    Variant,
    merged,
)
from tasks.core.settings import Settings
from tasks.environment.check import check_environment, require_fit_environment
from tasks.environment.forecast import forecast_build, forecast_examination, require_fit
from tasks.examine.edge.edge import examine_edges
from tasks.examine.protocol import Protocol
from tasks.examine.reference import examine_reference
from tasks.examine.soak.soak import soak_variant
from tasks.examine.speed.measure import measure_speed
from tasks.examine.speed.tune import tune_variants
from tasks.examine.variant import examine_variant
from tasks.foundry.ledger import record_champion
from tasks.foundry.register import register_champion
from tasks.foundry.stage import examine_in_staging
from tasks.judge.judge import judge_variants, undecided_by_questions
from tasks.judge.policy import policy_digest
from tasks.report.html.page_records import PAGE
from tasks.report.write import write_report
from tasks.variants.build import build_variant
from tasks.variants.recipes import REFERENCE, check_recipe

T = TypeVar("T")


def side_by_side(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Make calls as wide as the flow's threads are, and give their results in order."""
    with ThreadPoolExecutor(max_workers=Settings().workers) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


@dataclass(frozen=True)
class _Subjects:
    order: Order
    environment: Environment
    checkpoint: Checkpoint
    reference: Variant
    variants: list[Variant]

    def answered(
        self, variants: list[Variant], protocol: Protocol
    ) -> tuple[Evidence, list[Evidence]]:
        questions = load_question_file(self.order.questions)
        yardstick = examine_reference(
            self.checkpoint, self.reference, questions, protocol=protocol, settings=Settings()
        )
        calls = [
            partial(
                examine_variant,
                self.checkpoint,
                self.reference,
                yardstick,
                variant,
                questions,
                protocol=protocol,
                settings=Settings(),
            )
            for variant in variants
        ]
        return yardstick, side_by_side(calls)

    def strained(self) -> list[Evidence]:
        questions = load_question_file(self.order.questions)
        protocol = self.order.protocol
        edges = [
            partial(examine_edges, self.checkpoint, v, settings=Settings(), protocol=protocol)
            for v in self.variants
        ]
        soaks = [
            partial(soak_variant, self.checkpoint, v, protocol=protocol, settings=Settings())
            for v in self.variants
        ]
        stages = [
            partial(
                examine_in_staging,
                self.checkpoint,
                v,
                questions,
                load_cycles=protocol.load_cycles,
                settings=Settings(),
            )
            for v in self.variants
        ]
        return side_by_side([*edges, *soaks, *stages])


def release(request: ReleaseRequest) -> Release:
    """Do what `ingot release` does."""
    began = time.monotonic()
    subjects, tuning = _prepared(request)
    yardstick, answers = subjects.answered(subjects.variants, subjects.order.protocol)
    others = [*tuning, *subjects.strained(), *_timed(subjects)]
    judgement = _judged(subjects, yardstick, [*answers, *others])
    second = subjects.order.protocol.second_look()
    undecided = undecided_by_questions(judgement)
    if second is not None and undecided:
        again = [variant for variant in subjects.variants if variant.digest in undecided]
        yardstick, later = subjects.answered(again, second)
        seen = {part.subject for part in later}
        answers = [*(part for part in answers if part.subject not in seen), *later]
        judgement = _judged(subjects, yardstick, [*answers, *others])
    evidence = [yardstick, *answers, *others]
    return _published(subjects, judgement, evidence, time.monotonic() - began)


def _prepared(request: ReleaseRequest) -> tuple[_Subjects, list[Evidence]]:
    """Check, admit, build and tune."""
    order = check_request(request)
    clear_leftovers(Settings())
    environment = check_environment(Settings())
    require_fit_environment(environment)
    checkpoint = admit_checkpoint(order.checkpoint, name=request.name)
    recipes = [REFERENCE, *order.recipes]
    for recipe in order.recipes:
        check_recipe(recipe, checkpoint)
    forecasts = [forecast_build(checkpoint, recipe) for recipe in recipes]
    examinations = [forecast_examination(checkpoint, recipe) for recipe in recipes]
    require_fit(environment, forecasts, examinations)
    built = side_by_side(
        [partial(build_variant, checkpoint, recipe, settings=Settings()) for recipe in recipes]
    )
    reference = next(variant for variant in built if variant.precision is Precision.FP32)
    shipped = [variant for variant in built if variant is not reference]
    tuned = tune_variants(shipped, protocol=order.protocol, settings=Settings())
    return _Subjects(order, environment, checkpoint, reference, tuned.variants), tuned.evidence


def _timed(subjects: _Subjects) -> list[Evidence]:
    protocol = subjects.order.protocol
    return measure_speed(subjects.variants, protocol=protocol, settings=Settings()).evidence


def _metrics(
    subjects: _Subjects, yardstick: Evidence, evidence: list[Evidence]
) -> dict[Digest, dict[str, Measurement]]:
    return {
        variant.digest: {
            **yardstick.metrics,
            **merged([part for part in evidence if part.subject == variant.digest]),
        }
        for variant in subjects.variants
    }


def _judged(subjects: _Subjects, yardstick: Evidence, evidence: list[Evidence]) -> Judgement:
    return judge_variants(
        subjects.variants,
        _metrics(subjects, yardstick, evidence),
        subjects.order.policy,
        parameters=subjects.checkpoint.parameters,
        failures={},
        most_questions=subjects.order.protocol.most_questions,
        conditions=subjects.order.conditions,
    )


def _published(
    subjects: _Subjects, judgement: Judgement, evidence: list[Evidence], seconds: float
) -> Release:
    """Register the champion and write the report."""
    settings, checkpoint, order = Settings(), subjects.checkpoint, subjects.order
    run_id = f"plain-{checkpoint.name}-{int(time.time())}"
    found = Release(
        run_id=run_id,
        name=checkpoint.name,
        checkpoint=checkpoint,
        environment=subjects.environment,
        variants=subjects.variants,
        failures={},
        questions=order.questions,
        conditions=order.conditions,
        metrics=_metrics(subjects, evidence[0], evidence[1:]),
        judgement=judgement,
        registration=_registered(subjects, judgement, run_id),
        report=settings.runs / run_id / PAGE,
        seconds=seconds,
        cached=[],
    )
    digest = policy_digest(order.policy)
    write_report(found, evidence, settings=settings, policy_digest=digest)
    return found


def _registered(subjects: _Subjects, judgement: Judgement, run_id: str) -> Registration | None:
    champion = next((v for v in subjects.variants if v.digest == judgement.champion), None)
    if champion is None:
        return None
    settings, name = Settings(), subjects.checkpoint.name
    found = register_champion(name, champion, subjects.order.question, settings=settings)
    record_champion(settings, name, found, champion, run_id=run_id)
    return found


def main() -> int:
    """Release, and say what came of it."""
    request = ReleaseRequest(
        checkpoint=Path(sys.argv[1]),
        name=sys.argv[2],
        examination=ExaminationProfile(sys.argv[3]),
    )
    found = release(request)
    print(f"{found.judgement.reason} {found.seconds:.1f} s")
    return 0 if found.registration else 3


if __name__ == "__main__":
    sys.exit(main())
