"""Telling listeners of steps that run elsewhere, from what their futures and the server say.

A step announces itself in its own process (`tasks/core/progress.py`); on a cluster that is
another one. Times are those of the worker's clock, so a step's length is right and its beginning
as good as the clocks agree.
"""

from __future__ import annotations

import contextvars
import threading
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import CrashedRun, ObjectNotFound
from prefect.futures import PrefectFuture

from tasks.core.errors import ChildKilled
from tasks.core.progress import StepState, announce

POLL_S = 1.0
RECORDED_S = 15.0  # the server writes a task run's start a moment after it happened
_ENGINES = ("distributed", "ray")

_followers: dict[UUID, threading.Thread] = {}


def follow(future: PrefectFuture[Any], step: str) -> None:
    """Announce start and end of a step of another process, as they become known."""
    ended = threading.Event()
    # Not the future's own wait: on Dask it gives no sign of a worker that was killed.
    future.add_done_callback(lambda _: ended.set())
    context = contextvars.copy_context()
    follower = threading.Thread(
        target=context.run,
        args=(_follow, future, step, ended, time.monotonic()),
        name=f"follow {step}",
        daemon=True,
    )
    _followers[future.task_run_id] = follower
    follower.start()


def is_announced(future: PrefectFuture[Any]) -> bool:
    """Tell whether a future was followed; when it gives True all about it has been announced."""
    follower = _followers.pop(future.task_run_id, None)
    if follower is None:
        return False
    follower.join()
    return True


def lost_worker(problem: Exception) -> ChildKilled | None:
    """Give what stands for a worker that died as often as its engine tries; None for all else."""
    if type(problem).__module__.split(".")[0] in _ENGINES or isinstance(problem, CrashedRun):
        return ChildKilled(
            f"the worker of this step died: {type(problem).__name__}: {problem}",
            next_step="look for out-of-memory kills on the cluster's machines",
        )
    return None


def _follow(
    future: PrefectFuture[Any], step: str, ended: threading.Event, submitted_s: float
) -> None:
    try:
        _tell(future, step, ended, submitted_s)
    except RuntimeError as problem:
        if "client" not in str(problem):
            raise  # else the flow was broken off, and its client is closed: nobody listens


def _tell(
    future: PrefectFuture[Any], step: str, ended: threading.Event, submitted_s: float
) -> None:
    is_running = False
    while not ended.wait(POLL_S):
        if not is_running and (began_s := _began_s(future)) is not None:
            announce(step, StepState.STARTED, at_s=began_s)
            is_running = True
    future.wait()
    state = future.state
    if state.name == "Cached":
        announce(step, StepState.CACHED)
        return
    if not is_running:
        announce(step, StepState.STARTED, at_s=_recorded_s(future, submitted_s))
    if state.is_completed():
        detail = state.message or ""
        announce(step, StepState.FINISHED, detail, at_s=_on_this_clock(state.timestamp))
    else:
        announce(step, StepState.FAILED, _reason(state))


def _reason(state: State[Any]) -> str:
    problem = state.result(raise_on_failure=False) if state.is_final() else None
    return str(problem or state.message or "its worker died")


def _recorded_s(future: PrefectFuture[Any], otherwise_s: float) -> float:
    """Wait a little for the server to know when a task began."""
    ends_at = time.monotonic() + RECORDED_S
    while (began_s := _began_s(future)) is None and time.monotonic() < ends_at:
        time.sleep(POLL_S / 4)
    return otherwise_s if began_s is None else began_s


def _began_s(future: PrefectFuture[Any]) -> float | None:
    try:
        with get_client(sync_client=True) as client:
            began = client.read_task_run(future.task_run_id).start_time
    except (httpx.HTTPError, ObjectNotFound):
        return None
    return None if began is None else _on_this_clock(began)


def _on_this_clock(moment: datetime) -> float:
    return time.monotonic() - (datetime.now(UTC) - moment).total_seconds()
