"""The soak flow: the champion of a name in long use, weekly or on demand.

Reads as the order of the steps; how each is done is in `tasks/`.
"""

from __future__ import annotations

import logging
import time

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.artifacts import decoration, show_environment
from flows.attempts import gave_up
from flows.fan_out import Settled, settle
from flows.inventory import champions
from flows.run_name import rename_run
from flows.soak_order import SoakOrder, SoakRequest, check_soak
from tasks.core.budget import BASE_BYTES, loaded_bytes
from tasks.core.child_process import children_stopped_on_interrupt
from tasks.core.figures import figure_of
from tasks.core.housekeeping import clear_leftovers
from tasks.core.progress import step
from tasks.core.records import (
    Environment,
    Evidence,
    GateVerdict,
    Message,
    Variant,
    VariantVerdict,
    merged,
)
from tasks.core.reservations import reserve_memory
from tasks.core.settings import Settings
from tasks.core.task import RETRYING, UNCACHED
from tasks.environment.check import require_fit_environment
from tasks.environment.task import check_environment
from tasks.examine.soak.task import soak_champion
from tasks.foundry import reload
from tasks.judge.judge import judge_variants
from tasks.judge.policy import policy_digest
from tasks.report.soak_run import SoakRun, soak_markdown, write_soak_run

GREETING = Message(role="user", content="Hello")

# Prefect sends a module's log lines to the run's page only at a level of its own (3.8.8).
for package in ("flows", "tasks"):
    logging.getLogger(package).setLevel(logging.INFO)


def name_of_run() -> str:
    """Name a run after what is soaked, not after Prefect's animals."""
    request = SoakRequest.model_validate(flow_run.get_parameters()["request"])
    return f"soak-{request.name or 'longest-ago'}"


@flow(name="soak", flow_run_name=name_of_run, persist_result=False)
def soak(request: SoakRequest) -> SoakRun | State[SoakRun]:
    """Have the champion of a name generate for long and be loaded often; tell whether it lasts.

    Args:
        request: which champion, and how long.
    """
    began = time.monotonic()
    if spent := gave_up():
        return spent
    if request.name is None and not champions():
        return Completed(name="NothingToSoak", message="nothing is registered yet")
    with step("read request") as say:
        order = check_soak(request)
        say(order.in_one_line)
    rename_run(f"soak-{order.name}")
    clear_leftovers(Settings())
    environment = check_environment()
    show_environment(environment)
    require_fit_environment(environment)
    with children_stopped_on_interrupt():
        examined = examine_in_turn(order)
    verdict = judge(order, list(examined.results.values()))
    run = record(order, environment, examined, verdict, seconds=time.monotonic() - began)
    show_soak(run)
    return final_state(run)


def examine_in_turn(order: SoakOrder) -> Settled[Evidence]:
    """Soak in ONNX Runtime GenAI, then load and unload in Foundry Local; each by itself."""
    variant, protocol = order.variant, order.protocol
    soaked = settle(
        {"soak": soak_champion.submit(order.checkpoint, variant, protocol=protocol)}, "champion"
    )
    cycles = protocol.load_cycles
    reloaded = settle(
        {"reload": reload_champion.submit(order.champion.model_id, variant, cycles=cycles)},
        "champion",
    )
    return Settled(
        results={**soaked.results, **reloaded.results},
        failures={**soaked.failures, **reloaded.failures},
    )


@task(
    name="reload champion",
    task_run_name="reload {variant.recipe.precision}",
    **RETRYING,
    **UNCACHED,
)
def reload_champion(model_id: str, variant: Variant, *, cycles: int) -> Evidence:
    """Load, ask and unload the champion in Foundry Local's production index, over and over."""
    need = loaded_bytes(variant.precision, variant.size_bytes) + BASE_BYTES
    label = f"reload {model_id}"
    with step("reload champion") as say, reserve_memory(need, step=label, say=say):
        evidence = reload.reload_champion(
            Settings(), model_id, variant.digest, [GREETING], cycles=cycles, say=say
        )
        say(f"growth a load in bytes: {figure_of(evidence.metrics[reload.GROWTH])}")
    return evidence


def judge(order: SoakOrder, evidence: list[Evidence]) -> VariantVerdict:
    """Hold what was measured against the gates on it."""
    with step("judge") as say:
        judgement = judge_variants(
            [order.variant],
            {order.variant.digest: merged(evidence)},
            order.policy,
            parameters=order.checkpoint.parameters,
            failures={},
        )
        (verdict,) = judgement.verdicts
        say(verdict.verdict.value)
    return verdict


def record(
    order: SoakOrder,
    environment: Environment,
    examined: Settled[Evidence],
    verdict: VariantVerdict,
    *,
    seconds: float,
) -> SoakRun:
    """Write the run's folder; gives the outcome with its place."""
    started = flow_run.get_scheduled_start_time().strftime("%Y%m%dT%H%M%SZ")
    run_id = f"{started}-soak-{order.name}-{str(flow_run.get_id())[:8]}"
    run = SoakRun(
        run_id=run_id,
        name=order.name,
        model_id=order.champion.model_id,
        released_by=order.champion.run_id,
        variant=order.variant.digest,
        precision=order.variant.precision,
        checkpoint=order.checkpoint,
        examination=order.protocol.profile,
        environment=environment,
        evidence=list(examined.results.values()),
        verdict=verdict,
        failures={name: str(problem) for name, problem in examined.failures.items()},
        policy_digest=policy_digest(order.policy),
        folder=Settings().runs / run_id,
        seconds=seconds,
    )
    with step("write evidence") as say:
        say(str(write_soak_run(run, Settings())))
    return run


@decoration
def show_soak(run: SoakRun) -> None:
    """Publish the verdict and the gates."""
    create_markdown_artifact(
        key="ingot-soak",
        markdown=soak_markdown(run),
        description=f"Does {run.model_id} last?",
    )


def final_state(run: SoakRun) -> SoakRun | State[SoakRun]:
    """Say in the state's name what is wrong: a leak, nothing that could be told, or the machine."""
    if run.leaks:
        return Failed(name="Leak", message=run.reason, data=run)
    if run.failures:
        return Failed(name="Unfinished", message=run.reason, data=run)
    if run.verdict.verdict is not GateVerdict.PASS:
        return Completed(name="Inconclusive", message=run.reason, data=run)
    return run
