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
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import artifacts
from flows.examination import examine_all
from flows.fan_out import result_of, settle
from flows.parameters import ReleaseRequest
from flows.preflight import check_request
from flows.step_log import StepLog
from tasks.checkpoint.task import admit_checkpoint
from tasks.core.housekeeping import clear_leftovers
from tasks.core.records import Checkpoint, Forecast, Precision, Release, Variant
from tasks.core.settings import Settings
from tasks.environment.task import check_environment, forecast_builds
from tasks.examine.protocol import Protocol
from tasks.examine.task import examine_reference
from tasks.foundry.task import register_champion
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
    with StepLog() as steps:
        order = check_request(request)
        clear_leftovers(Settings())
        environment = check_environment()
        artifacts.show_environment(environment)
        checkpoint = admit_checkpoint(order.checkpoint, request.name)
        for recipe in order.recipes:
            check_recipe(recipe, checkpoint)
        forecasts = forecast_builds(environment, checkpoint, [REFERENCE, *order.recipes])

        reference, built, failures = build_all(checkpoint, forecasts)
        protocol = Protocol.standard()
        yardstick = result_of(
            examine_reference.submit(
                checkpoint, reference, order.questions, protocol=protocol, environment=environment
            ),
            "examine reference",
        )
        examination = examine_all(
            checkpoint, reference, yardstick, built, order.questions, protocol, environment
        )
        failures |= examination.failures

        judgement = judge_variants(
            built,
            examination.metrics,
            order.policy,
            parameters=checkpoint.parameters,
            failures=failures,
        )
        champion = next((v for v in built if v.digest == judgement.champion), None)
        run = run_id(checkpoint.name)
        registration = (
            register_champion(checkpoint.name, champion, order.question, run) if champion else None
        )
        outcome = record_release(
            Release(
                run_id=run,
                name=checkpoint.name,
                checkpoint=checkpoint,
                environment=environment,
                variants=built,
                failures=failures,
                metrics=examination.metrics,
                judgement=judgement,
                registration=registration,
                report=Settings().runs / run / "report.md",
                seconds=time.monotonic() - began,
                cached=steps.cached,
            ),
            [yardstick, *examination.evidence],
            steps.timings,
        )
    artifacts.show_release(outcome)
    return final_state(outcome)


def build_all(
    checkpoint: Checkpoint, forecasts: list[Forecast]
) -> tuple[Variant, list[Variant], dict[str, str]]:
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
    failures = {subject: str(problem) for subject, problem in builds.failures.items()}
    return builds.results[Precision.FP32], list(variants.values()), failures


def run_id(name: str) -> str:
    """Name this run's folder: sortable by time, unique by Prefect's run."""
    started = flow_run.get_scheduled_start_time().strftime("%Y%m%dT%H%M%SZ")
    return f"{started}-{name}-{str(flow_run.get_id())[:8]}"


def final_state(outcome: Release) -> Release | State[Release]:
    """Say in the state's name when nothing ships, or not everything could be built."""
    if outcome.registration is None:
        return Completed(name="Refused", message=outcome.judgement.reason, data=outcome)
    if outcome.failures:
        failed = ", ".join(sorted(outcome.failures))
        return Completed(name="Partial", message=f"{failed} failed", data=outcome)
    return outcome
