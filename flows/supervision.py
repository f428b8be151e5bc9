"""Running a flow for a command that answers: to Ctrl-C, to a request to stop, to a lost server.

The flow runs in a thread, because Prefect's engine and its waiting threads may take minutes to
notice any of these; the main thread ends everything in seconds. Whatever is half-made then is
nobody's: builds are made aside, locks die with the process. Knows nothing of what the flow does.
"""

from __future__ import annotations

import contextvars
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from tasks.core.child import stop_children
from tasks.core.errors import IngotError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import State

    from flows.server_watch import ServerWatch

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
SAY_WITHIN_S = 5.0  # the last word to the server, once the children are ended


class Stopped(KeyboardInterrupt):
    """Somebody wants the command ended.

    Attributes:
        signal: by which it was said.
        exit_code: 130 for Ctrl-C, 143 for SIGTERM, as shells have it.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")

    @property
    def exit_code(self) -> int:
        """Give the exit code that shells give."""
        return 128 + self.signal


def run_flow(flow: Flow[..., Any], request: object, watch: ServerWatch) -> Any:
    """Run a flow to its end and give its outcome; ends it, children and all, on a signal.

    Must be called from the main thread. After `Stopped`, or when the server is lost, the flow's
    thread is left behind: leave the process with `leave`.

    Raises:
        Stopped: SIGINT or SIGTERM came.
        EnvironmentUnfit: the server is gone for good.
        Exception: what the flow failed with.
    """
    runs: list[UUID] = []
    followed = flow.with_options(on_running=[lambda _flow, run, _state: runs.append(run.id)])
    outcome: Future[Any] = Future()
    thread = threading.Thread(
        target=contextvars.copy_context().run,  # Prefect keeps settings in there
        args=(_run_into, outcome, followed, request),
        name="flow",
        daemon=True,
    )
    with _signals() as came:
        thread.start()
        try:
            return _wait(outcome, came, watch)
        except (Stopped, IngotError) as problem:
            if not outcome.done():
                _abandon(runs, problem)
            raise


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, by an exception, instead of the process at once."""

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(code: object) -> NoReturn:
    """Leave the process; at once when a flow was left behind, whose threads nobody waits for."""
    if _abandoned.is_set():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 1)
    sys.exit(code)  # type: ignore[arg-type]  # as `SystemExit` had it


def leave_threads_behind() -> None:
    """Have `leave` end the process at once, because a thread of it may never end."""
    _abandoned.set()


def are_threads_left_behind() -> bool:
    """Tell whether the process will end at once."""
    return _abandoned.is_set()


_abandoned = threading.Event()


def _run_into(outcome: Future[Any], flow: Flow[..., Any], request: object) -> None:
    try:
        state: State[Any] = flow(request, return_state=True)  # type: ignore[assignment]
        outcome.set_result(state.result(raise_on_failure=False))
    except BaseException as problem:  # noqa: BLE001  (the edge of the thread: the main one raises it)
        outcome.set_exception(problem)


def _wait(outcome: Future[Any], came: list[int], watch: ServerWatch) -> Any:
    while not outcome.done():
        if came:
            raise Stopped(came[0])
        watch.require_server()
        wait([outcome], timeout=LOOK_EVERY_S)
    found = outcome.result()
    if isinstance(found, Exception):
        raise found
    return found


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask for an end, while the block runs."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _abandon(runs: list[UUID], problem: BaseException) -> None:
    """End what the flow has started, and leave its threads to themselves."""
    leave_threads_behind()
    stop_children(leaving=True)
    if isinstance(problem, Stopped):
        for run in runs:
            _report_cancelled(run, str(problem))


def _report_cancelled(run: UUID, reason: str) -> None:
    """Tell the server, so that its page shows no run that goes on for ever."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
    from prefect.states import Cancelled

    options = {"timeout": SAY_WITHIN_S}
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings=options) as client,
        ):
            client.set_flow_run_state(run, Cancelled(message=reason), force=True)
    except Exception:
        log.exception("the server could not be told that the run was stopped")
