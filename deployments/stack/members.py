"""What each process of a stack runs, with which environment, and when it is started again."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from pathlib import Path

from deployments.stack.places import Member, Plan, Role, Stack
from deployments.stack.processes import process_of, start
from tasks.core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
QUIET_S = 3  # of the 15 s within which a landed checkpoint's run shall start

QUICK_DEATH_S = 60
FIRST_PAUSE_S = 2
LONGEST_PAUSE_S = 300

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,tasks",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Waits of 2, 4, 8 ... s: a run outlives a server that is started again.
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    # In memory, a server that is started again crashes the runs of limited deployments (3.8.8).
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    # Prefect's own 10 s would be most of those 15 s.
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    # A run whose machine died is found by its missing heartbeat; Prefect's own 180 s is slow.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
}


def own_api(port: int) -> str:
    """Give the API's address of our own server."""
    return f"http://{LOOPBACK}:{port}/api"


def worker_name(stack: Stack) -> str:
    """Name the worker after the machine and the home, the same at each start."""
    home = hashlib.sha256(str(stack.folder).encode()).hexdigest()[:6]
    return f"ingot-{platform.node()}-{home}"


def command_of(role: Role, plan: Plan, stack: Stack) -> list[str]:
    """Give the command line of a process."""
    python = [sys.executable, "-m"]
    prefect = [*python, "prefect", "--no-prompt"]
    match role:
        case Role.SERVER:
            address = ["--host", LOOPBACK, "--port", str(plan.port)]
            return [*prefect, "server", "start", *address]
        case Role.WORKER:
            # The pool has the limit: with one of its own a worker dies of a crashed run that
            # comes back while it still holds the old one (3.8.8).
            pool = ["--pool", plan.pool, "--type", "process"]
            name = ["--name", worker_name(stack), "--install-policy", "never"]
            return [*prefect, "worker", "start", *pool, *name]
        case Role.WATCHER:
            watch = ["watch", *plan.folders, "--quiet", str(QUIET_S)]
            return [*python, "deployments.command", *watch]
        case Role.KEEPER:
            return [*python, "deployments.stack.keeper"]


def environment_for(plan: Plan) -> dict[str, str]:
    """Give the environment of every process, runs included; what the user set stays.

    A configured server's address and credentials are inherited and never written down.
    """
    settings = Settings()
    own = {"PREFECT_API_URL": plan.api} if plan.port is not None else {}
    ours = {
        "INGOT_HOME": str(settings.home),
        "INGOT_MACHINE": str(settings.machine),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    return {**ENVIRONMENT, **os.environ, **ours, **own}


def start_member(stack: Stack, plan: Plan, role: Role) -> Member:
    """Start one process anew, and write it down."""
    before = stack.member(role)
    command = command_of(role, plan, stack)
    member = start(stack, role, command, environment_for(plan), ROOT)
    changes: dict[str, object] = {"api": plan.api if role is Role.SERVER else None}
    if before is not None:
        lived_s = member.started_s - before.started_s
        changes["restarts"] = before.restarts + 1
        changes["quick_deaths"] = before.quick_deaths + 1 if 0 <= lived_s < QUICK_DEATH_S else 0
    member = member.model_copy(update=changes)
    stack.set_member(member)
    return member


def mend(stack: Stack, plan: Plan, now_s: float | None = None) -> list[Role]:
    """Start again what should run and has died; what dies at once waits longer each time."""
    now_s = time.monotonic() if now_s is None else now_s
    mended: list[Role] = []
    for role in plan.roles:
        member = stack.member(role)
        if role is not Role.KEEPER and process_of(member) is None and is_due(member, now_s):
            start_member(stack, plan, role)
            mended.append(role)
    return mended


def is_due(member: Member | None, now_s: float) -> bool:
    """Tell whether a dead process may be started again.

    By the monotonic clock: a time of day that is set back would keep the dead from coming back.
    """
    if member is None or member.started_s > now_s:  # the machine was started since
        return True
    pause_s: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**member.quick_deaths)
    return now_s - member.started_s >= pause_s
