"""The release flow: from a checkpoint to a verified champion in Foundry Local, or to a reason.

Reads as the order of the steps; how each is done is in `tasks/`.
"""

from __future__ import annotations

import logging
import time
from typing import Any, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import artifacts
from flows.examination import examine_all
from flows.fan_out import is_environments, settle
from flows.parameters import ReleaseRequest
from flows.preflight import check_request
from flows.step_log import StepLog
from tasks.checkpoint.task import admit_checkpoint
from tasks.core.errors import IngotError, named
from tasks.core.housekeeping import clear_leftovers
from tasks.core.progress import listening, step
from tasks.core.records import (
    Checkpoint,
    Forecast,
    Precision,
    Question,
    Registration,
    Release,
    Variant,
)
from tasks.core.settings import Settings
from tasks.environment.check import require_fit_environment
from tasks.environment.task import check_environment, forecast_builds
from tasks.foundry.task import register_champion
from tasks.judge.policy import policy_digest
from tasks.judge.task import judge_variants
from tasks.report.task import record_release
from tasks.variants.recipes import REFERENCE, check_recipe
from tasks.variants.task import build_variant

RUNNER = cast(
    "TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=Settings().workers)
)

# Prefect sends a module's log lines to the run's page only at a level of its own (3.8.8).
for package in ("flows", "tasks"):
    logging.getLogger(package).setLevel(logging.INFO)


def name_of_run() -> str:
    """Name a run after what is released, not after Prefect's animals."""
    request = ReleaseRequest.model_validate(flow_run.get_parameters()["request"])
    return f"release-{request.name or request.checkpoint.name}"


@flow(
    name="release",
    flow_run_name=name_of_run,
    task_runner=RUNNER,
    persist_result=False,
)
def release(request: ReleaseRequest) -> Release | State[Release]:
    """Build, examine and judge a checkpoint's variants; register the smallest that passes.

    Args:
        request: the checkpoint, and what to make of it.
    """
    began = time.monotonic()
    steps = StepLog()
    with listening(steps.hear):
        with step("read request") as say:
            order = check_request(request)
            say(order.in_one_line)
        clear_leftovers(Settings())
        environment = check_environment()
        artifacts.show_environment(environment)
        require_fit_environment(environment)
        checkpoint = admit_checkpoint(order.checkpoint, request.name)
        for recipe in order.recipes:
            check_recipe(recipe, checkpoint)
        forecasts = forecast_builds(environment, checkpoint, [REFERENCE, *order.recipes])

        reference, built, failures = build_all(checkpoint, forecasts)
        examination = examine_all(checkpoint, reference, built, order.questions, environment)
        failures |= examination.failures

        judgement = judge_variants(
            built,
            examination.metrics,
            order.policy,
            parameters=checkpoint.parameters,
            failures=in_words(failures),
        )
        champion = next((v for v in built if v.digest == judgement.champion), None)
        run = run_id(checkpoint.name)
        registration = ship(champion, checkpoint.name, order.question, run, failures)
        outcome = record_release(
            Release(
                run_id=run,
                name=checkpoint.name,
                checkpoint=checkpoint,
                environment=environment,
                variants=built,
                failures=in_words(failures),
                questions=order.questions,
                policy=request.policy,
                environment_faults=sorted(k for k, v in failures.items() if is_environments(v)),
                metrics=examination.metrics,
                judgement=judgement,
                registration=registration,
                report=Settings().runs / run / "report.md",
                seconds=time.monotonic() - began,
                cached=steps.cached,
            ),
            examination.evidence,
            steps.timings,
            policy_digest(order.policy),
        )
    artifacts.show_release(outcome)
    return final_state(outcome)


def build_all(
    checkpoint: Checkpoint, forecasts: list[Forecast]
) -> tuple[Variant, list[Variant], dict[str, IngotError]]:
    """Build the reference and every variant side by side; one that fails stops no other.

    Raises:
        IngotError: the reference failed, or every variant did.
    """
    futures = {
        forecast.recipe.precision.value: build_variant.submit(checkpoint, forecast.recipe, forecast)
        for forecast in forecasts
    }
    builds = settle(artifacts.follow("builds", futures), "build")
    variants = {k: v for k, v in builds.results.items() if k != Precision.FP32}
    if Precision.FP32 in builds.failures:
        raise builds.failures[Precision.FP32]
    if not variants:
        raise next(iter(builds.failures.values()))
    return builds.results[Precision.FP32], list(variants.values()), dict(builds.failures)


def ship(
    champion: Variant | None,
    name: str,
    question: Question,
    run: str,
    failures: dict[str, IngotError],
) -> Registration | None:
    """Register the champion; one that does not answer there is a failure among the others."""
    if champion is None:
        return None
    try:
        return register_champion(name, champion, question, run)
    except (IngotError, OSError) as problem:
        failures["registration"] = named(problem)
        return None


def in_words(failures: dict[str, IngotError]) -> dict[str, str]:
    """Give the failures as text, for records and reports."""
    return {subject: str(problem) for subject, problem in failures.items()}


def run_id(name: str) -> str:
    """Name this run's folder: sortable by time, unique by Prefect's run."""
    started = flow_run.get_scheduled_start_time().strftime("%Y%m%dT%H%M%SZ")
    return f"{started}-{name}-{str(flow_run.get_id())[:8]}"


def final_state(outcome: Release) -> Release | State[Release]:
    """Say in the state's name when nothing ships, and why: the model or the machine."""
    failed = ", ".join(sorted(outcome.failures))
    if outcome.registration is None and outcome.environment_faults:
        return Failed(name="Unfinished", message=f"{failed} failed", data=outcome)
    if outcome.registration is None:
        return Completed(name="Refused", message=outcome.judgement.reason, data=outcome)
    if outcome.failures:
        return Completed(name="Partial", message=f"{failed} failed", data=outcome)
    return outcome
