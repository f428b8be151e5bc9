"""The question in Prefect: a run of its own, paused until somebody resumes it with an answer.

A run of its own, and not a pause of the release: Prefect takes the deployment's concurrency slot
from a paused run and ends it four minutes later, when the run's process cannot renew it
(measured, 3.8.8). So the release keeps running, keeps its slot, and reserves no memory.

Not `pause_flow_run`: it turns red when time is up, dies with a server that restarts for longer
than a minute, and does not see that its run was cancelled (all read in its source, 3.8.8).
"""

from __future__ import annotations

import logging
import time
from typing import Any, Literal, cast
from uuid import UUID, uuid4

import httpx
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import CrashedRun, FailedRun, PrefectHTTPStatusError
from prefect.input import RunInput, keyset_from_paused_state
from prefect.runtime import flow_run
from prefect.states import Completed, Paused, Running
from pydantic import Field

from flows.approval import Answer
from flows.artifacts import show_proposal
from tasks.core.records import Release
from tasks.report.proposal import proposal_markdown

log = logging.getLogger(__name__)

POLL_S = 2.0
# The server fails a pause whose time is up; this side closes the question before that.
GRACE_S = 3600
LONGEST_COMMENT = 1000
LONGEST_NAME = 100


class Decision(RunInput):
    """The form of the answer; who resumes without filling it in has rejected."""

    decision: Literal["reject", "promote"] = Field(
        default="reject",
        title="Decision",
        description="promote: it becomes champion in Foundry Local. reject: nothing changes.",
    )
    comment: str = Field(
        default="",
        max_length=LONGEST_COMMENT,
        title="Comment",
        description="Why; stands in the report.",
    )
    by: str = Field(
        default="",
        max_length=LONGEST_NAME,
        title="Your name",
        description="Stands in the report: Prefect does not know who you are.",
    )


CANCELLED = Decision(decision="reject", comment="The question was cancelled in Prefect.")


def ask_in_prefect(release: Release, hours: float) -> Answer | None:
    """Ask in a run of its own, and wait; gives None where nobody answered."""
    show_proposal(release)
    state = approval(release.name, proposal_markdown(release), hours, return_state=True)
    decision = CANCELLED if state.is_cancelled() else _decision(state)
    if decision is None:
        return None
    promote = decision.decision == "promote"
    return Answer(promote, decision.comment.strip(), decision.by.strip())


def _decision(state: State[Any]) -> Decision | None:
    """Give what was decided; None too where the server closed the question, as after a sleep.

    Raises:
        Exception: the question could not be put.
    """
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, Exception) and not isinstance(outcome, FailedRun | CrashedRun):
        raise outcome
    return outcome if isinstance(outcome, Decision) else None


def name_of_run() -> str:
    """Name a run after what waits for an answer."""
    return f"approve-{flow_run.get_parameters()['name']}"


@flow(name="approval", flow_run_name=name_of_run, persist_result=False, log_prints=False)
def approval(name: str, proposal: str, hours: float) -> State[Any]:
    """Wait until somebody presses Resume and chooses promote or reject.

    Args:
        name: name of the release.
        proposal: what is asked, as Markdown.
        hours: how long the question stands.
    """
    log.info("%s waits for a decision: Resume, at the top of this page, shows it", name)
    form = Decision.with_initial_data(description=proposal)
    decision = _wait(UUID(flow_run.get_id()), form, hours)
    if decision is None:
        return Completed(name="Unanswered", message=f"no answer within {hours:g} h", data=None)
    outcome = "Promoted" if decision.decision == "promote" else "Rejected"
    return Completed(name=outcome, message=decision.comment or None, data=decision)


def _wait(run: UUID, form: type[Decision], hours: float) -> Decision | None:
    """Pause the run until it is resumed or time is up; None when nobody answered."""
    deadline = time.monotonic() + hours * 3600
    # Another key each time: a run that is started again would find its old question answered.
    paused: State[Any] = Paused(
        timeout_seconds=int(hours * 3600) + GRACE_S, reschedule=False, pause_key=str(uuid4())
    )
    keys = keyset_from_paused_state(paused)
    paused.state_details.run_input_keyset = {str(part): key for part, key in keys.items()}
    form.save(keys, flow_run_id=run)
    with get_client(sync_client=True) as client:
        _set(client, run, paused)
        while (state := _state(client, run, otherwise=paused)).is_paused():
            if time.monotonic() >= deadline:
                _set(client, run, Running(message="time is up"))
                return None
            time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
    if state.is_running():  # resumed; without an answer it gives what the form began with
        return cast("Decision", form.load(keys, flow_run_id=run))
    return CANCELLED if state.is_cancelled() or state.is_cancelling() else None


def _state(client: SyncPrefectClient, run: UUID, *, otherwise: State[Any]) -> State[Any]:
    """Ask the server; while it does not answer, nobody else can have answered."""
    try:
        return client.read_flow_run(run).state or otherwise
    except (httpx.TransportError, PrefectHTTPStatusError) as problem:
        log.warning("the Prefect server does not answer, waiting on: %s", problem)
        return otherwise


def _set(client: SyncPrefectClient, run: UUID, state: State[Any]) -> None:
    answer = client.set_flow_run_state(run, state)
    if answer.status is not SetStateStatus.ACCEPT:
        raise RuntimeError(f"Prefect refused the state {state.name}: {answer.details}")
