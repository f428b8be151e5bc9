"""The process of one heavy step: how it is started, ended, and stopped with all the others.

Knows what a child must inherit and what it must not; what it is asked and answers is for
`tasks/core/child.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tasks.core.errors import EnvironmentUnfit
from tasks.core.offspring import PATIENCE_S, end_offspring, marked, new_mark
from tasks.core.progress import PROGRESS_FILE

# No telemetry and no network: Olive, ONNX Runtime, GenAI and Foundry Local all stop uploading
# under CI=1 (measured with strace, 2026-11); the hub client must not even look up a name.
QUIET_ENVIRONMENT = {
    "CI": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OLIVE_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "ORT_TELEMETRY_DISABLED": "1",
    "PYTHONUTF8": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
}
_SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_API_KEY",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "RAY_AUTH_TOKEN",
)


@dataclass(frozen=True)
class ChildFiles:
    """What parent and child tell each other, in the child's scratch folder."""

    folder: Path

    @property
    def request(self) -> Path:
        """What the child is asked."""
        return self.folder / "request.json"

    @property
    def answer(self) -> Path:
        """What it says; there once it is whole."""
        return self.folder / "answer.json"

    @property
    def progress(self) -> Path:
        """What it is doing, a line at a time."""
        return self.folder / "progress.txt"


@dataclass(frozen=True, eq=False)
class Child:
    """A child that was started: what it runs, its files, its log, and the mark of its offspring."""

    target: str
    files: ChildFiles
    output: BinaryIO
    process: subprocess.Popen[bytes]
    mark: str

    @classmethod
    def start(
        cls, target: str, files: ChildFiles, output: BinaryIO, environment: Mapping[str, str]
    ) -> Child:
        """Start it, unless everything is being stopped."""
        hold_if_leaving()
        mark = new_mark()
        arguments = (target, str(files.folder), str(os.getpid()))
        # Started and remembered at once: whoever stops all children must not miss this one.
        with _mutex:
            if _stopping.is_set():
                raise stopped_from_outside(target)
            # Same process group as the flow, because Prefect's worker cancels by group; own
            # output, because an inherited stdout hides the flow's death from the worker; a pipe
            # as stdin, because its end tells the child on every system that the parent is gone.
            process = subprocess.Popen(
                [sys.executable, "-m", "tasks.core.child_main", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=marked(_surroundings(files, environment), mark),
            )
            child = cls(target, files, output, process, mark)
            _running.append(child)
        return child

    def end(self) -> None:
        """Kill whatever is left of it and of what it has started, and reap it."""
        end_offspring(self.mark, self.process.pid if self.process.poll() is None else None)
        with suppress(subprocess.TimeoutExpired):  # in the kernel's hands: nobody can end it
            self.process.wait(PATIENCE_S)
        if self.process.stdin is not None:
            self.process.stdin.close()
        with _mutex:
            if self in _running:
                _running.remove(self)


_mutex = threading.Lock()
_running: list[Child] = []
_stopping = threading.Event()
_leaving = threading.Event()


def _surroundings(files: ChildFiles, environment: Mapping[str, str]) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in _SECRETS}
    own = {PROGRESS_FILE: str(files.progress)}
    return {**inherited, **QUIET_ENVIRONMENT, **own, **environment}


def stopped_from_outside(target: str) -> EnvironmentUnfit:
    """Give the error of a child that somebody wanted ended: no other try."""
    return EnvironmentUnfit(
        f"{target} was stopped from outside",
        next_step="run the same command again: finished steps are kept",
    )


@contextmanager
def children_stopped_on_interrupt() -> Iterator[None]:
    """End every child of this process when the block is interrupted, and let no new one start.

    A thread that waits for its child cannot be interrupted; its child can. Errors of the work
    itself pass, as steps end their own children.
    """
    _stopping.clear()
    try:
        yield
    except Exception:
        raise
    except BaseException:
        stop_children()
        raise


def are_stopping() -> bool:
    """Tell whether all children were stopped."""
    return _stopping.is_set()


def stop_children(*, leaving: bool = False) -> None:
    """End every child of this process, and let no new one start.

    Args:
        leaving: the process itself ends next, so whoever waits for a child is held for good: its
            flow shall not report a failure where somebody only stopped it.
    """
    with _mutex:
        _stopping.set()
        if leaving:
            _leaving.set()
        doomed = list(_running)
    for child in doomed:
        child.end()


def hold_if_leaving() -> None:
    """Never come back when this process is about to end."""
    if _leaving.is_set():
        threading.Event().wait()
