"""Bring the stack up: server, deployments, worker, watcher, keeper. Done twice, it changes nothing.

What a call started is ended again when that call fails; what ran before is left alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deployments.stack.members import ENVIRONMENT, command_of, own_api, start_member, worker_name
from deployments.stack.places import LANDED, LANDING, Plan, Role, Stack
from deployments.stack.processes import end, last_lines, process_of, tree
from deployments.stack.server import (
    choose_port,
    configured_api,
    require_free,
    wait_until_answering,
)
from deployments.stack.talking import talking_to
from flows.server_watch import require_prefect_api, without_secrets
from tasks.core.addresses import require_plain_address
from tasks.core.errors import EnvironmentUnfit, InputError
from tasks.core.progress import step
from tasks.core.settings import Settings

POOL = "ingot"
LIMIT = 4  # one run of each deployment that may go on for long
READY_S = 120
TELEMETRY_OFF = ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED")


@dataclass(frozen=True)
class Order:
    """What `ingot up` was asked for; None is what runs already, else the default."""

    folders: list[str] | None = None
    port: int | None = None
    pool: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Raised:
    """What `ingot up` did: the plan in force, and what it started; nothing when all ran before."""

    plan: Plan
    started: list[Role]
    deployed: bool


def bring_up(stack: Stack, order: Order) -> Raised:
    """Start what should run and does not.

    Raises:
        InputError: an option contradicts what runs, a folder is not there, prefect.yaml is wrong.
        EnvironmentUnfit: the port is taken, or a part does not come up; nothing new is left then.
        ResourceBusy: another command is at it.
    """
    for name in TELEMETRY_OFF:  # of Prefect in this process, before it is imported
        os.environ.setdefault(name, ENVIRONMENT[name])
    with stack.locked():
        plan = plan_for(stack, order)
        with _undone_on_failure(stack) as started:
            if plan.port is not None:
                _start_server(stack, plan, started)
            with talking_to(plan):
                require_prefect_api()
                with step("deploy prefect.yaml") as say:
                    from deployments.stack.prepare import prepare

                    plan, deployed = prepare(stack, plan)
                    say(", ".join(plan.deployments) if deployed else "unchanged")
                _start_others(stack, plan, started)
    return Raised(plan, started, deployed)


def plan_for(stack: Stack, order: Order) -> Plan:
    """Give what should run: what is asked for, else what runs, else the defaults.

    Raises:
        InputError: a folder is not there, a URL holds credentials, or an option would need a
            restart of what runs.
    """
    before = stack.plan()
    port = choose_port(stack, order.port)
    api = without_secrets(configured_api()) if port is None else own_api(port)
    if before is None:
        plan = Plan(api=api, port=port, pool=POOL, folders=[], limit=LIMIT)
    else:
        plan = before.model_copy(update={"api": api, "port": port})
    asked = {"pool": order.pool, "limit": order.limit, "folders": order.folders}
    plan = plan.model_copy(update={key: value for key, value in asked.items() if value})
    plan = plan.model_copy(update={"folders": _folders(plan.folders)})
    if before is not None and _is_running(stack, Role.WORKER):
        _refuse_change(before, plan)
    return plan


def _folders(folders: list[str]) -> list[str]:
    if not folders:
        landing = Settings().home / LANDING
        landing.mkdir(parents=True, exist_ok=True)
        return [str(landing)]
    found = [_url(one) if "://" in one else _existing(one) for one in dict.fromkeys(folders)]
    if all("://" in one for one in found):  # release/nightly searches it, also before any landed
        (Settings().home / LANDED).mkdir(parents=True, exist_ok=True)
    return found


def _url(address: str) -> str:
    # It goes into files, the process list and `ingot status`.
    require_plain_address(address, "--watch")
    return address


def _existing(folder: str) -> str:
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise InputError(
            f"there is no folder {path} to watch",
            next_step="make it, or mend the path given to --watch",
        )
    return str(path)


def _refuse_change(before: Plan, plan: Plan) -> None:
    """The worker would have to be started anew, and its runs with it."""
    for name in ("api", "pool", "limit"):
        old, new = getattr(before, name), getattr(plan, name)
        if old != new:
            raise InputError(
                f"the worker runs with {name} {old}",
                got=f"{name} {new}",
                next_step="run `ingot down` first; `ingot down --wait` lets its runs end",
            )


def _start_server(stack: Stack, plan: Plan, started: list[Role]) -> None:
    assert plan.port is not None
    with step("start server") as say:
        say(plan.api)
        if not _is_running(stack, Role.SERVER):
            require_free(plan.port)
            started.append(Role.SERVER)
            start_member(stack, plan, Role.SERVER)
        member = stack.member(Role.SERVER)
        assert member is not None
        wait_until_answering(stack, member, plan.api)


def _start_others(stack: Stack, plan: Plan, started: list[Role]) -> None:
    watcher = stack.member(Role.WATCHER)
    if watcher is not None and watcher.command != command_of(Role.WATCHER, plan, stack):
        end(tree(process_of(watcher)))  # other folders; it keeps what it knows in files
    with step("start worker and watcher") as say:
        missing = [r for r in (Role.WORKER, Role.WATCHER) if not _is_running(stack, r)]
        heard = last_heartbeat(stack, plan.pool) if Role.WORKER in missing else None
        for role in missing:
            started.append(role)
            start_member(stack, plan, role)
        say(", ".join(plan.folders))
        if missing:
            _wait_until_ready(stack, plan, heard)
    stack.set_plan(plan)
    if not _is_running(stack, Role.KEEPER):
        started.append(Role.KEEPER)
        start_member(stack, plan, Role.KEEPER)


def _wait_until_ready(stack: Stack, plan: Plan, heard: datetime | None) -> None:
    """Wait until the server has heard of the worker, and the watcher is still there then.

    Args:
        stack: whose they are.
        plan: the pool.
        heard: the worker's heartbeat before it was started; None if that was never, or if it
            has been running all the time.

    Raises:
        EnvironmentUnfit: one of them ended, or was not heard of in time.
    """
    ends_at = time.monotonic() + READY_S
    while True:
        # Another time than before, and not a later one than the start: the server may be another
        # machine whose clock lags behind, and any clock may be set back.
        ready = last_heartbeat(stack, plan.pool) not in (None, heard)
        for role in (Role.WORKER, Role.WATCHER):
            if not _is_running(stack, role):
                raise EnvironmentUnfit(
                    f"the {role} ended at its start",
                    got=last_lines(stack.log(role)),
                    next_step=f"see {stack.log(role)}",
                )
        if ready:
            return
        if time.monotonic() > ends_at:
            raise EnvironmentUnfit(
                "the worker has not come online",
                got=last_lines(stack.log(Role.WORKER)),
                next_step=f"see {stack.log(Role.WORKER)}",
            )
        time.sleep(0.5)


def last_heartbeat(stack: Stack, pool: str) -> datetime | None:
    """Give when the server last heard from this stack's worker, by the server's clock."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        workers = client.read_workers_for_work_pool(pool)
    beats = [one.last_heartbeat_time for one in workers if one.name == worker_name(stack)]
    return next(iter(beats), None)


def _is_running(stack: Stack, role: Role) -> bool:
    return process_of(stack.member(role)) is not None


@contextmanager
def _undone_on_failure(stack: Stack) -> Iterator[list[Role]]:
    """End what the block started if it fails or is interrupted."""
    before = stack.plan()
    started: list[Role] = []
    try:
        yield started
    except BaseException:
        for role in reversed(started):
            end(tree(process_of(stack.member(role))))
            stack.forget_member(role)
        stack.set_plan(before)
        raise
