"""Prefect as a quiet part of the command: its own server when none is configured, no chatter.

Sets only what must be set before Prefect is imported, and has the server watched. Knows nothing of
releases.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from flows.prefect_server import EmbeddedServer
from flows.server_watch import ServerWatch, require_prefect_api, without_secrets
from flows.stack_server import stack_api
from flows.supervision import are_threads_left_behind, leave_threads_behind
from tasks.core.imports import collector_off
from tasks.core.offspring import end_orphans
from tasks.core.progress import step
from tasks.core.settings import Settings

SEND_WITHIN_S = 20.0

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The log goes to the run's page; the terminal is the command's own.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,tasks",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",
    # Waits of 2, 4, 8 ... s, 254 s in all: longer than the patience of the watch, which decides.
    # Prefect's own 5 give up after 62 s, and then a flow fails whose work is done (3.8.8).
    "PREFECT_CLIENT_MAX_RETRIES": "7",
}


@contextmanager
def start_prefect(meanwhile: str) -> Iterator[ServerWatch]:
    """Have a Prefect API answer while the block runs: the configured one, else an embedded one.

    Gives the watch that tells when the server is gone for good; an embedded one is started anew
    when it dies.

    Args:
        meanwhile: module to import while an embedded server starts, which takes as long.

    Raises:
        EnvironmentUnfit: the configured API cannot be used, or the embedded one did not start.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if api := stack_api(Settings()):  # that of `ingot up`, unless another is configured
        os.environ.setdefault("PREFECT_API_URL", api)
    end_orphans()
    with ExitStack() as started:
        with step("start Prefect") as say:
            say("importing")
            # Begun before Prefect is imported, which takes seconds too; nearly always rightly.
            server = None if os.environ.get("PREFECT_API_URL") else _begin_embedded(started)
            with collector_off():
                from prefect.settings import (
                    PREFECT_API_URL,
                    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
                    temporary_settings,
                )
            configured = PREFECT_API_URL.value()
            say(without_secrets(configured) or "embedded server")
            if server is not None and configured:  # by a profile
                server.stop()
                server = None
            if server is None:
                require_prefect_api()
            with collector_off():
                importlib.import_module(meanwhile)
            if server is not None:
                server.wait()
        address = {} if server is None else {PREFECT_API_URL: server.address}
        # No heartbeats: nobody watches a command's, and their thread ends a second late.
        with (
            temporary_settings({**address, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
            _watch_over(server, without_secrets(configured)) as watch,
        ):
            try:
                yield watch
            finally:
                if not are_threads_left_behind():
                    send_the_rest()


def _begin_embedded(started: ExitStack) -> EmbeddedServer:
    log_file = Settings().logs / f"prefect-server-{os.getpid()}.log"
    server = EmbeddedServer(log_file, dict(os.environ))
    started.callback(server.stop)
    server.begin()
    return server


def _watch_over(server: EmbeddedServer | None, configured: str) -> ServerWatch:
    if server is None:
        return ServerWatch(configured)
    return ServerWatch(server.address, server.revive, next_step=f"see {server.log_file}")


def send_the_rest() -> None:
    """Send what Prefect still has to tell the server, such as the last states of tasks.

    Prefect does so when the interpreter ends, and waits for a server that is gone without end
    (measured, 3.8.8): 7 s for each event, and for ever when its connection broke.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for service in (EventsWorker, APILogWorker):
        _, late = service.drain_all(timeout=SEND_WITHIN_S)  # type: ignore[misc]  # no loop here
        if late:
            leave_threads_behind()
