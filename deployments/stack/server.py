"""Which Prefect server the stack uses, and whether it answers.

The configured one (PREFECT_API_URL) if there is one, else our own on loopback with SQLite. A server
of somebody else on our port is never used by chance: who means it names it.
"""

from __future__ import annotations

import socket
import sys
import time
from urllib.parse import urlsplit

import httpx
import psutil

from deployments.stack.members import LOOPBACK, own_api
from deployments.stack.places import Member, Role, Stack
from deployments.stack.processes import last_lines, process_of
from tasks.core.errors import EnvironmentUnfit, InputError

PORT = 4200
START_S = 240  # 11 to 16 s on a quiet machine; a first start on a busy one makes the database too
OURS = ("127.0.0.1", "localhost", "[::1]")


def configured_api() -> str | None:
    """Give the address that the user set, by environment or Prefect profile."""
    from prefect.settings import PREFECT_API_URL

    address: str | None = PREFECT_API_URL.value()
    return address.rstrip("/") if address else None


def choose_port(stack: Stack, wanted: int | None) -> int | None:
    """Give the port of our own server; None when a configured server is to be used.

    Raises:
        InputError: our server runs on another port than the wanted one.
    """
    member = stack.member(Role.SERVER)
    running = process_of(member)
    at = urlsplit(member.api or "").port if member is not None and running is not None else None
    if at is not None and wanted not in (None, at):
        raise InputError(
            f"this stack's server runs on port {at}",
            got=f"--port {wanted}",
            next_step="run `ingot down` first",
        )
    port = at or wanted or PORT
    configured = configured_api()
    if configured is not None and configured not in {f"http://{host}:{port}/api" for host in OURS}:
        return None
    # The address of our own server, set for other commands too, or somebody else's there.
    if configured is not None and running is None and answers(configured):
        return None
    return port


def answers(api: str, timeout_s: float = 2) -> bool:
    """Tell whether a Prefect API answers there; asks for no credentials."""
    try:
        # Proxies are for other machines; this may be loopback.
        reply = httpx.get(f"{api}/health", timeout=timeout_s, trust_env=False)
    except httpx.HTTPError:
        return False
    return reply.is_success and reply.text.strip() == "true"


def require_free(port: int) -> None:
    """Refuse a port that somebody else has.

    Raises:
        EnvironmentUnfit: it is taken; says by whom where the system tells.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":  # there it would allow what is taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            return
        except OSError as problem:
            cause = problem
    api = own_api(port)
    if answers(api):
        raise EnvironmentUnfit(
            f"port {port} has a Prefect server that this stack did not start",
            got=_holder(port),
            next_step=f"set PREFECT_API_URL={api} to use that server, or give another --port",
        ) from cause
    raise EnvironmentUnfit(
        f"port {port} cannot be used",
        expected="a free port on loopback",
        got=_holder(port) or str(cause),
        next_step="give another one with --port",
    ) from cause


def _holder(port: int) -> str:
    """Name the process that listens on a port; empty where the system does not tell."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if not listens or tuple(connection.laddr)[1:] != (port,):
                continue
            name = psutil.Process(connection.pid).name() if connection.pid else "a process"
            return f"taken by {name}" + (f", pid {connection.pid}" if connection.pid else "")
    except psutil.Error:
        pass
    return ""


def wait_until_answering(stack: Stack, member: Member, api: str, wait_s: float = START_S) -> None:
    """Wait for our own server.

    Raises:
        EnvironmentUnfit: it ended, or does not answer in time; with the last lines of its log.
    """
    ends_at = time.monotonic() + wait_s
    while not answers(api):
        gone = process_of(member) is None
        if gone or time.monotonic() > ends_at:
            raise EnvironmentUnfit(
                "the Prefect server ended at its start" if gone else "the Prefect server is silent",
                got=last_lines(stack.log(Role.SERVER)) or "an empty log",
                next_step=f"see {stack.log(Role.SERVER)}",
            )
        time.sleep(0.2)


def ui_of(api: str) -> str:
    """Give the UI's address of a server whose API is there."""
    return api.removesuffix("/api")
