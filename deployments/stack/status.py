"""What of the stack runs, what waits, and how the last runs ended."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from pydantic import Field

from deployments.stack.places import Member, Plan, Role, Stack
from deployments.stack.processes import process_of
from deployments.stack.server import answers, ui_of
from deployments.stack.talking import talking_to
from tasks.core.records import Record

LAST = 5


class MemberStatus(Record):
    """One process that should run.

    Attributes:
        restarts: how often it was found dead and started again.
    """

    role: Role
    alive: bool
    pid: int | None = None
    since: datetime | None = None
    restarts: int = 0
    log: str


class RunStatus(Record):
    """How one run ended."""

    name: str
    state: str
    message: str
    ended: datetime | None


class Status(Record):
    """All of it.

    Attributes:
        wanted: whether anything should run at all.
        complete: everything that should run does, and the server answers.
        runs: how many runs are in each state, ended ones too.
        last: the runs that ended last, newest first.
    """

    wanted: bool
    complete: bool
    api: str | None = None
    ui: str | None = None
    answers: bool = False
    pool: str | None = None
    folders: list[str] = Field(default_factory=list)
    members: list[MemberStatus] = Field(default_factory=list)
    runs: dict[str, int] = Field(default_factory=dict)
    last: list[RunStatus] = Field(default_factory=list)


def status_of(stack: Stack) -> Status:
    """Look at the processes, and ask the server."""
    plan = stack.plan()
    left = [role for role in Role if stack.member(role) is not None]
    if plan is None:  # nothing, or what an `ingot up` that was killed left half done
        return Status(
            wanted=bool(left), complete=not left, members=[_look(stack, role) for role in left]
        )
    members = [_look(stack, role) for role in plan.roles]
    is_there = answers(plan.api)
    runs, last = _runs(plan) if is_there else ({}, [])
    return Status(
        wanted=True,
        complete=is_there and all(one.alive for one in members),
        api=plan.api,
        ui=ui_of(plan.api),
        answers=is_there,
        pool=plan.pool,
        folders=plan.folders,
        members=members,
        runs=runs,
        last=last,
    )


def _look(stack: Stack, role: Role) -> MemberStatus:
    member: Member | None = stack.member(role)
    alive = process_of(member) is not None
    return MemberStatus(
        role=role,
        alive=alive,
        pid=member.pid if member is not None and alive else None,
        since=member.started if member is not None and alive else None,
        restarts=member.restarts if member is not None else 0,
        log=str(stack.log(role)),
    )


def _runs(plan: Plan) -> tuple[dict[str, int], list[RunStatus]]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[plan.pool]))
    with talking_to(plan), get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            work_pool_filter=pool, sort=FlowRunSort.START_TIME_DESC, limit=200
        )
    states = Counter(run.state.name or run.state.type for run in found if run.state is not None)
    ended = [run for run in found if run.end_time is not None]
    ended.sort(key=lambda run: run.end_time, reverse=True)  # type: ignore[arg-type, return-value]
    last = [
        RunStatus(
            name=run.name,
            state=(run.state and run.state.name) or "",
            message=(run.state and run.state.message) or "",
            ended=run.end_time,
        )
        for run in ended[:LAST]
    ]
    return dict(states), last
