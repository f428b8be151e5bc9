"""What runs inside the processes under test: it writes down what they do, and stops at points.

Stopping is SIGSTOP on itself, so nothing moves until the harness has killed it, or something else,
and sends SIGCONT. The product knows nothing of this.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.points import FLOW, FOLDER, WATCHER, Meeting, Point

CHILD = "tasks.core.child_main"
COMMANDS = ("flows.command", "deployments.command")
ENGINES = ("prefect.engine", "prefect.flow_engine")

_rename, _replace, _fsync, _open = os.rename, os.replace, os.fsync, io.open


def install() -> None:
    """Watch this process, if it is one of those that points are about."""
    arguments = sys.orig_argv
    role = role_of(arguments)
    if role is not None:
        Inside(Meeting(Path(os.environ[FOLDER])), role).watch(arguments)


def role_of(arguments: list[str]) -> str | None:
    """Name the part of this process in a run, from its command line."""
    if CHILD in arguments:
        return arguments[arguments.index(CHILD) + 1]
    if any(module in arguments for module in COMMANDS):
        return WATCHER if "watch" in arguments else FLOW
    return FLOW if any(module in arguments for module in ENGINES) else None


class Inside:
    """The shim of one process."""

    def __init__(self, meeting: Meeting, role: str) -> None:
        self._meeting = meeting
        self._role = role
        self._home = os.environ.get("INGOT_HOME", "")
        self._points = [
            (number, point)
            for number, point in enumerate(meeting.points())
            if role.startswith(point.who)
        ]
        self._seen: Counter[int] = Counter()
        self._steps: set[str] = set()

    def watch(self, arguments: list[str]) -> None:
        """Put the hooks in place."""
        self._note(kind="start", subjects=_subjects(arguments))
        from tasks.core import progress

        if self._role in (FLOW, WATCHER):
            progress.add_listener(self._hear)
        else:
            said = progress.report_progress
            progress.report_progress = lambda line: (said(line), self._say(line))[0]
        os.rename = self._renaming(_rename)
        os.replace = self._renaming(_replace)
        os.fsync = self._sync
        if any(point.at in ("read", "write") for _, point in self._points):
            import builtins

            builtins.open = io.open = self._opening

    def _note(self, **fields: object) -> None:
        line = json.dumps({"at": time.time(), "pid": os.getpid(), "role": self._role, **fields})
        _append(self._meeting.journal, line)

    def _hear(self, event: Any) -> None:
        if event.state != "waiting":
            (self._steps.add if event.state == "started" else self._steps.discard)(event.step)
            self._note(kind="step", step=event.step, state=str(event.state), detail=event.detail)
        self._at("step", lambda p: (p.what, p.when) == (event.step, event.state))

    def _say(self, line: str) -> None:
        self._at("says", lambda point: re.search(point.what, line) is not None)

    def _renaming(self, real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, *args: Any, **kwargs: Any) -> None:
            path = os.fspath(target)
            if not isinstance(path, str) or not path.startswith(f"{self._home}{os.sep}"):
                real(source, target, *args, **kwargs)
                return
            self._at("rename", _renamed_to(path, "before"))
            facts = {"replaced": Path(path).exists(), "unsynced": self._unsynced(source, path)}
            real(source, target, *args, **kwargs)
            self._note(kind="rename", source=os.fspath(source), target=path, **facts)
            self._at("rename", _renamed_to(path, "after"))

        return rename

    def _unsynced(self, source: Any, target: str) -> list[str]:
        if is_hidden(Path(target).relative_to(self._home)):
            return []
        return unsynced_below(Path(source), self._meeting)

    def _sync(self, handle: Any) -> None:
        _fsync(handle)
        descriptor = handle if isinstance(handle, int) else handle.fileno()
        _append(self._meeting.synced, json.dumps([time.time(), *identity(os.fstat(descriptor))]))

    def _opening(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        stream = _open(file, mode, *args, **kwargs)
        if isinstance(file, str | os.PathLike):
            writes, path = bool(set(mode) & set("wxa")), str(os.fspath(file))
            self._at("write", lambda p: writes and re.search(p.what, path) is not None)
            self._at(
                "read", lambda p: p.when in self._steps and re.search(p.what, path) is not None
            )
        return stream

    def _at(self, kind: str, matches: Callable[[Point], bool]) -> None:
        for number, point in self._points:
            if point.at != kind or not matches(point):
                continue
            self._seen[number] += 1
            if self._seen[number] == point.nth:
                self._stop(number)

    def _stop(self, number: int) -> None:
        """Say where this process is, and stand still; at most once a point in a whole run."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        try:
            descriptor = os.open(self._meeting.reached_file(number), flags)
        except FileExistsError:
            return
        os.write(descriptor, f"{os.getpid()}\n".encode())
        os.close(descriptor)
        # To this thread: one to the process may wait for another thread, while this one goes on.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _renamed_to(path: str, when: str) -> Callable[[Point], bool]:
    return lambda point: point.when == when and re.search(point.what, path) is not None


def identity(status: os.stat_result) -> tuple[int, int, int]:
    """Name the content of a file or folder: inode, time of the last change, size.

    A folder's size says nothing, and its time changes with each entry.
    """
    is_folder = (status.st_mode & 0o170000) == 0o040000
    return status.st_ino, status.st_mtime_ns, 0 if is_folder else status.st_size


def synced_contents(meeting: Meeting) -> set[tuple[int, int, int]]:
    """Give the contents that were synced by any process so far."""
    if not meeting.synced.exists():
        return set()
    lines = meeting.synced.read_text().splitlines()
    return {(ino, changed, size) for _, ino, changed, size in map(json.loads, lines)}


def unsynced_below(path: Path, meeting: Meeting) -> list[str]:
    """Give the files and folders, from `path` downwards, that a power cut would now take."""
    synced = synced_contents(meeting)
    entries = [path, *(path.rglob("*") if path.is_dir() else ())]
    return [str(entry) for entry in entries if identity(entry.stat()) not in synced]


def is_hidden(path: Path) -> bool:
    """Tell whether a path in the home is of something unfinished, or thrown away anyway."""
    unfinished = any(part.endswith(".partial") for part in path.parts)
    return unfinished or bool({"tmp", "foundry-staging"} & set(path.parts))


def _subjects(arguments: list[str]) -> list[str]:
    """Give the precisions that a building child was asked for: one, or several together."""
    folder = next(
        (Path(part) for part in arguments if (Path(part) / "request.json").is_file()), None
    )
    if folder is None:
        return []
    request = json.loads((folder / "request.json").read_text())
    recipes = request.get("recipes") or [request.get("recipe")]
    return [recipe["precision"] for recipe in recipes if recipe]


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)
