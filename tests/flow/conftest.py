"""The Prefect servers of the flow tests: an embedded one, and a real one in its own process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

STARTUP_S = 240.0


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    # A busy machine needs far longer than the default of 30 s. Without a heartbeat a flow ends at
    # once; with one it waits about a second for the heartbeat's thread (measured, 3.8.8).
    # Telemetry writes at start too, and met a flow's first words there: `database is locked`.
    with (
        pytest.MonkeyPatch.context() as patch,
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=180):
            yield


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the API's address of `prefect server start`, with its services, on a free port.

    Schedules, triggers and automations live in services that the embedded server does not have.
    """
    home = tmp_path_factory.mktemp("prefect-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env={
                **plain_environment(home),
                "PREFECT_UI_URL": url.removesuffix("/api"),
                "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
                "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_BATCH_SIZE": "100",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _await_health(url, server, home / "server.log")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def plain_environment(home: Path) -> dict[str, str]:
    """Give this process's environment with no other Prefect server in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return {
        **kept,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def _await_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + STARTUP_S
    while time.monotonic() < ends:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if server.poll() is not None:
            break
        time.sleep(0.5)
    pytest.fail(f"the Prefect server did not start: {log.read_text(errors='replace')[-3000:]}")
