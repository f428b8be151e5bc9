"""Take the stack down: watcher, worker with its runs, server. Nothing of it is left.

Runs that were going on are cancelled on the server, so that none shows as running for ever; run
again, they find their finished builds in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

import psutil

from deployments.stack.places import Plan, Role, Stack
from deployments.stack.processes import end, environment_of, of_stack, process_of, tree
from deployments.stack.server import answers
from deployments.stack.talking import talking_to
from tasks.core.errors import InputError
from tasks.core.progress import step

RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of a run's process (3.8.8)
CANCELLED = "Ended by `ingot down`; started again, finished steps are not repeated."
LOOK_EVERY_S = 2.0
PASSES = 5


@dataclass
class Ended:
    """What `ingot down` did.

    Attributes:
        processes: how many were ended.
        cancelled: names of the runs that were cancelled.
        unreported: ids of runs that were ended while the server did not answer.
    """

    processes: int = 0
    cancelled: list[str] = field(default_factory=list)
    unreported: list[str] = field(default_factory=list)


def take_down(stack: Stack) -> Ended:
    """End every process of the stack and cancel its runs; running nothing is not an error.

    Raises:
        ResourceBusy: another command is at it.
    """
    done = Ended()
    with stack.locked():
        plan = stack.plan()
        if plan is None and not of_stack(stack):
            _forget(stack)
            return done
        stack.set_plan(None)  # first, so that a keeper that is not reached ends by itself
        server = tree(process_of(stack.member(Role.SERVER)))
        polite = [process_of(stack.member(role)) for role in (Role.KEEPER, Role.WATCHER)]
        with step("stop watcher and worker") as say:
            end(process for process in polite if process is not None)
            runs = _end_workers(stack, server, done)
            say(f"{len(runs)} runs were going on" if runs else "no run was going on")
        if plan is not None:
            _report(plan, runs, done)
        with step("stop server"):
            done.processes += len(server) + sum(process is not None for process in polite)
            end(server)
            end(of_stack(stack), grace_s=0)
        _forget(stack)
    return done


def _forget(stack: Stack) -> None:
    for role in Role:
        stack.forget_member(role)


def _end_workers(stack: Stack, server: list[psutil.Process], done: Ended) -> set[str]:
    """Kill worker, runs and whatever runs started; gives the ids of the runs.

    Killed at once: asked to end, a worker goes on, and starts further runs, while it has one
    (measured, 3.8.8); and a flow that is asked says Crashed, which starts it again.
    """
    runs: set[str] = set()
    worker = process_of(stack.member(Role.WORKER))
    for _ in range(PASSES):  # something may start while we look
        found = {process.pid: process for process in [*tree(worker), *of_stack(stack)]}
        for process in server:
            found.pop(process.pid, None)
        if not found:
            break
        runs |= _runs_of(found.values())
        # The worker before the runs, so that it reports none of them as crashed.
        if worker is not None:
            end([worker], grace_s=0)
        end(found.values(), grace_s=0)
        done.processes += len(found)
        worker = None
    return runs


def _runs_of(processes: Iterable[psutil.Process]) -> set[str]:
    found = {environment_of(process).get(RUN_ID) for process in processes}
    return {run for run in found if run}


def _report(plan: Plan, runs: set[str], done: Ended) -> None:
    """Say on the server that these runs are over."""
    if not answers(plan.api):
        done.unreported = sorted(runs)
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State
    from prefect.states import Cancelled

    with step("cancel runs") as say, talking_to(plan), get_client(sync_client=True) as client:
        if plan.port is not None:  # nobody else works for our own server
            runs = runs | {str(run) for run in _active(plan)}
        for run in sorted(runs):
            state: State[object] = Cancelled(message=CANCELLED)
            client.set_flow_run_state(UUID(run), state, force=True)
            done.cancelled.append(client.read_flow_run(UUID(run)).name)
        say(", ".join(done.cancelled) or "none")


def _active(plan: Plan) -> list[UUID]:
    """Give the runs of the pool that a worker has taken and that have not ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType

    taken = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=taken))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[plan.pool]))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=state), work_pool_filter=pool
        )
    return [run.id for run in found]


def let_runs_end(stack: Stack, say: Callable[[str], None]) -> None:
    """Wait until the runs that are going on have ended; none is started meanwhile.

    The pool is paused, because a worker cannot be told to take no more (measured, 3.8.8).
    Interrupted, it is resumed and all goes on.

    Raises:
        InputError: the server is not our own; other machines may work on that pool.
    """
    plan = stack.plan()
    if plan is None or process_of(stack.member(Role.WORKER)) is None:
        return
    if plan.port is None:
        raise InputError(
            "--wait would pause a pool that other machines may work on",
            next_step=f"pause the pool {plan.pool} in the UI, wait, then run `ingot down`",
        )
    with talking_to(plan):
        paused_before = _pause(plan.pool, paused=True)
        try:
            while going := _active(plan):
                say(f"waiting for {len(going)} runs; Ctrl-C leaves all as it is")
                time.sleep(LOOK_EVERY_S)
        finally:
            _pause(plan.pool, paused=paused_before)


def _pause(pool: str, *, paused: bool) -> bool:
    """Pause or resume a pool; gives whether it was paused before."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolUpdate

    with get_client(sync_client=True) as client:
        before = client.read_work_pool(pool).is_paused
        client.update_work_pool(pool, WorkPoolUpdate(is_paused=paused))
    return bool(before)
