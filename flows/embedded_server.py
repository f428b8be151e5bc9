"""Prefect as a quiet part of the command: its own server when none is configured, no chatter.

Sets only what must be set before Prefect is imported, and sweeps away servers that outlived a
killed command. Knows nothing of releases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psutil

from tasks.core.errors import EnvironmentUnfit
from tasks.core.progress import step

OWNER = "INGOT_SERVER_OWNER"

# The embedded server took 5 to 18 s to start here; Prefect's own limit of 20 s was once too short.
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The log goes to the run's page; the terminal is the command's own.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,tasks",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}


@contextmanager
def start_prefect() -> Iterator[None]:
    """Have a Prefect API answer while the block runs: the configured one, else an embedded one.

    Raises:
        EnvironmentUnfit: the configured API does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[OWNER] = str(os.getpid())
    _sweep_orphans()
    with step("start Prefect") as say:
        say("importing")
        from prefect.settings import PREFECT_API_URL

        say(_without_secrets(PREFECT_API_URL.value()) or "embedded server")
        _require_answer()
    with _no_heartbeat():
        yield


def _require_answer() -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    address = _without_secrets(PREFECT_API_URL.value()) or "the embedded server"
    try:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
    except RuntimeError as failure:  # the embedded server did not start
        problem = failure
    if problem is not None:
        raise EnvironmentUnfit(
            f"the Prefect API at {address} does not answer",
            got=str(problem),
            next_step="start that server, or unset PREFECT_API_URL to use the embedded one",
        ) from problem


def _without_secrets(address: str | None) -> str:
    """Give an address without user and password."""
    if not address:
        return ""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def _no_heartbeat() -> Iterator[None]:
    """Send no heartbeats: nobody watches a command's, and their thread ends a second late."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _sweep_orphans() -> None:
    """End embedded servers whose command was killed: Prefect leaves them running."""
    for process in psutil.process_iter(["cmdline"]):
        if "prefect.server.api.server:create_app" not in (process.info["cmdline"] or []):
            continue
        try:
            owner = process.environ().get(OWNER)
            if owner is not None and not psutil.pid_exists(int(owner)):
                process.terminate()
        except psutil.Error:
            continue
