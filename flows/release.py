"""The release flow: from a checkpoint to a verified champion in Foundry Local, or to a reason.

Reads as the order of the steps; how each is done is in `tasks/`.
"""

from __future__ import annotations

import logging
import time

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import artifacts
from flows.approval import ask_first
from flows.attempts import gave_up
from flows.champion import champion_in_place
from flows.examination import Subjects, examine_and_judge
from flows.fan_out import result_of, settle
from flows.findings import Findings
from flows.newest import newest_without_verdict, nothing_new
from flows.parameters import ReleaseRequest
from flows.preflight import check_request
from flows.run_name import rename_run
from flows.runners import prepare_cluster, runner_of
from flows.step_log import StepLog
from flows.unchanged import forget_release, note_release
from tasks.checkpoint.task import admit_checkpoint
from tasks.core.child import children_stopped_on_interrupt
from tasks.core.errors import IngotError, named
from tasks.core.housekeeping import clear_leftovers
from tasks.core.progress import listening, step
from tasks.core.records import (
    Checkpoint,
    Environment,
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
from tasks.examine.protocol import Protocol
from tasks.examine.speed.tune import Tuned
from tasks.examine.task import tune_variants
from tasks.foundry.task import register_champion
from tasks.report.approval import approval_in_words, is_withheld
from tasks.variants.recipes import REFERENCE, check_recipe
from tasks.variants.task import build_variant

RUNNER = runner_of(Settings())

# Prefect sends a module's log lines to the run's page only at a level of its own (3.8.8).
for package in ("flows", "tasks"):
    logging.getLogger(package).setLevel(logging.INFO)


def name_of_run() -> str:
    """Name a run after what is released, not after Prefect's animals."""
    request = ReleaseRequest.model_validate(flow_run.get_parameters()["request"])
    if request.newest:
        return f"release-newest-of-{request.name or request.checkpoint.name}"
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
    if spent := gave_up():
        return spent
    steps = StepLog()
    with listening(steps.hear), children_stopped_on_interrupt():
        if request.newest:
            chosen = newest_without_verdict(request, Settings())
            if chosen is None:
                return Completed(name="NothingNew", message=nothing_new(request, Settings()))
            request = chosen
            rename_run(f"release-{request.name}")
        with step("read request") as say:
            order = check_request(request)
            say(order.in_one_line)
        inputs = forget_release(order, Settings())
        prepare_cluster(Settings())
        clear_leftovers(Settings())
        environment = check_environment()
        artifacts.show_environment(environment)
        require_fit_environment(environment)
        checkpoint = admit_checkpoint(order.checkpoint, request.name)
        for recipe in order.recipes:
            check_recipe(recipe, checkpoint)
        recipes = [REFERENCE.model_copy(update={"builder": request.builder}), *order.recipes]
        forecasts = forecast_builds(environment, checkpoint, recipes)

        reference, built, failures = build_all(checkpoint, forecasts)
        tuned = tune_all(built, order.protocol, environment, failures)
        before = champion_in_place(checkpoint.name, Settings())
        subjects = Subjects(checkpoint, reference, tuned, environment, before)
        examination, judgement = examine_and_judge(subjects, order, failures)
        failures |= examination.failures

        champion = next((v for v in tuned.variants if v.digest == judgement.champion), None)
        run = run_id(checkpoint.name)
        findings = Findings(
            run, order, request.policy, subjects, examination, judgement, failures, steps, began
        )
        found = findings.release()
        if request.approval:
            found = ask_first(found, request.approval_hours, findings.publish)
        if not is_withheld(found):
            registration = ship(champion, checkpoint.name, order.question, run, failures)
            found = found.model_copy(update={"registration": registration})
        outcome = findings.publish(found)
        note_release(inputs, order, outcome, tuned, examination.all_evidence, Settings())
    artifacts.show_release(outcome)
    return final_state(outcome)


def build_all(
    checkpoint: Checkpoint, forecasts: list[Forecast]
) -> tuple[Variant, list[Variant], dict[str, IngotError]]:
    """Build the reference and every variant side by side; one that fails stops no other.

    On one machine the first step builds for all; on a cluster each has a machine of its own.

    Raises:
        IngotError: the reference failed, or every variant did.
    """
    is_here = Settings().runner == "thread"
    siblings = [forecast.recipe for forecast in forecasts] if is_here else []
    futures = {
        forecast.recipe.precision.value: build_variant.submit(
            checkpoint, forecast.recipe, forecast, siblings
        )
        for forecast in forecasts
    }
    builds = settle(artifacts.follow("builds", futures), "build")
    variants = {k: v for k, v in builds.results.items() if k != Precision.FP32}
    if Precision.FP32 in builds.failures:
        raise builds.failures[Precision.FP32]
    if not variants:
        raise next(iter(builds.failures.values()))
    return builds.results[Precision.FP32], list(variants.values()), dict(builds.failures)


def tune_all(
    built: list[Variant],
    protocol: Protocol,
    environment: Environment,
    failures: dict[str, IngotError],
) -> Tuned:
    """Tune alone on the machine; variants that cannot be tuned are examined as they were built."""
    try:
        future = tune_variants.submit(built, protocol=protocol, environment=environment)
        return result_of(future, "tune variants")
    except IngotError as problem:
        failures["tuning"] = problem
        return Tuned(variants=built, evidence=[], contended=[])


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


def run_id(name: str) -> str:
    """Name this run's folder: sortable by time, unique by Prefect's run."""
    started = flow_run.get_scheduled_start_time().strftime("%Y%m%dT%H%M%SZ")
    return f"{started}-{name}-{str(flow_run.get_id())[:8]}"


def final_state(outcome: Release) -> Release | State[Release]:
    """Say in the state's name when nothing ships, and why: the model or the machine."""
    failed = ", ".join(sorted(outcome.failures))
    if outcome.approval is not None and is_withheld(outcome):
        name = outcome.approval.state.value.capitalize()
        return Completed(name=name, message=approval_in_words(outcome), data=outcome)
    if outcome.registration is None and outcome.environment_faults:
        return Failed(name="Unfinished", message=f"{failed} failed", data=outcome)
    if outcome.registration is None:
        return Completed(name="Refused", message=outcome.judgement.reason, data=outcome)
    if outcome.failures:
        return Completed(name="Partial", message=f"{failed} failed", data=outcome)
    # Notifications quote the message.
    champion = outcome.registration.model_id
    return Completed(message=f"{champion} is champion: {outcome.judgement.reason}", data=outcome)
