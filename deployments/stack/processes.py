"""Processes that outlive the command which starts them: start, find again, end, bound their logs.

Knows nothing of Prefect; what runs in them is said in `members.py`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from deployments.stack.places import Member, Role, Stack

STACK = "INGOT_STACK"  # in the environment of every process of a stack, and of all below it
TOKEN = "INGOT_STACK_TOKEN"  # of one start
LOG_LIMIT_BYTES = 8_000_000
END_S = 5.0

_started: list[subprocess.Popen[bytes]] = []  # so that those who end before us are reaped


def start(
    stack: Stack, role: Role, command: list[str], environment: Mapping[str, str], folder: Path
) -> Member:
    """Start a process in the background; it lives on when the terminal closes."""
    token = uuid.uuid4().hex
    log = stack.log(role)
    log.parent.mkdir(parents=True, exist_ok=True)
    bound_log(log)
    with log.open("ab") as output:
        output.write(f"--- {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {role}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, STACK: str(stack.folder), TOKEN: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            **_detached(),
        )
    _started.append(process)
    return Member(
        role=role,
        pid=process.pid,
        token=token,
        created_s=_created_s(process.pid),
        command=command,
        started=datetime.now(UTC),
        started_s=time.monotonic(),
    )


def _detached() -> dict[str, Any]:
    if sys.platform == "win32":
        # No window, but a console of its own: children of a process without one would each open
        # a window, and Prefect's worker could not send them CTRL_BREAK.
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    # The worker may lead a session: it makes a process group for each run below it (3.8.8).
    return {"start_new_session": True}


def _created_s(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:  # gone already; the next look finds it dead
        return 0.0


def process_of(member: Member | None) -> psutil.Process | None:
    """Give the living process of a member; None when it has died, whoever has its pid now."""
    if member is None:
        return None
    for process in _started:
        process.poll()
    try:
        found = psutil.Process(member.pid)
        if found.status() == psutil.STATUS_ZOMBIE:
            return None
        return found if _is_it(found, member) else None
    except psutil.Error:
        return None


def _is_it(process: psutil.Process, member: Member) -> bool:
    """Compare the token; the time of creation moves when the clock is set, a token does not.

    An environment is empty for a moment at the start (measured, Linux 6 under load), and some
    systems keep it from us.
    """
    environment = environment_of(process)
    if environment:
        return environment.get(TOKEN) == member.token
    return abs(process.create_time() - member.created_s) < 1


def of_stack(stack: Stack) -> list[psutil.Process]:
    """Give every living process of a stack, also those whose parents died; never the caller's own.

    Found by their environment, which children inherit: a run that outlived its worker is no
    longer anybody's descendant.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in own and environment_of(process).get(STACK) == str(stack.folder)
    ]


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Give a process's environment; empty where the system keeps it from us."""
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def tree(process: psutil.Process | None) -> list[psutil.Process]:
    """Give a process and all below it."""
    if process is None:
        return []
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def end(processes: Iterable[psutil.Process], *, grace_s: float = END_S) -> None:
    """Ask processes to end, and kill those that do not within the grace time."""
    alive = list(processes)
    if grace_s:
        for process in alive:
            _quietly(process.terminate)
        _, alive = psutil.wait_procs(alive, timeout=grace_s)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=END_S)
    for child in _started:
        child.poll()


def _quietly(act: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.Error):
        act()


def bound_log(path: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Move a log's content aside once it is too long; whoever writes it goes on in the same file.

    Copied and cut, not renamed: the writer has it open. At most two files of about the limit stay.
    """
    try:
        if path.stat().st_size <= limit_bytes:
            return
        path.with_suffix(".1.log").write_bytes(path.read_bytes()[-limit_bytes:])
        os.truncate(path, 0)
    except OSError:  # a full disk or a virus scanner: at the next look
        return


def last_lines(path: Path, count: int = 12) -> str:
    """Give the end of a log."""
    try:
        text = path.read_bytes()[-8000:].decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-count:])
