"""What runs inside a child process: call one function, write one answer, leave.

The answer is renamed into place, so its existence means that the function returned. Runs as
`python -m tasks.core.child_main TARGET FOLDER PARENT_PID`; `tasks/core/child.py` is the other side.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import threading
import time
import traceback
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from tasks.core.errors import named
from tasks.core.imports import collector_off
from tasks.core.without_torch import leave_torch_out_if_asked

PR_SET_PDEATHSIG = 1
PARENT_IS_GONE, NO_ROOM_FOR_ANSWER = 97, 98  # exit codes


class Failure(BaseModel):
    """An error of Ingot's tree on its way to the parent."""

    kind: str
    fields: dict[str, str]


class ChildAnswer(BaseModel):
    """What a child leaves behind: a result or a failure, and what it cost."""

    result: dict[str, Any] | None = None
    failure: Failure | None = None
    cpu_s: float
    peak_rss_bytes: int


def peak_rss_bytes() -> int:
    """Give this process's highest resident set size, in bytes.

    Linux: VmHWM, because ru_maxrss starts from the size of the parent that forked (measured: a
    10 MiB child of an 800 MiB parent reports 830 MB). Windows: the peak working set. macOS:
    ru_maxrss, which is in bytes there.
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    if sys.platform == "win32":
        return int(memory.peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main(target: str, folder: Path, parent: int) -> None:
    """Run the target on `request.json` and leave `answer.json` behind."""
    _die_with_parent(parent)
    # Ctrl-C reaches everybody in a terminal; the parent hears it too, and ends us as one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    result, failure = None, None
    try:
        result = _call(target, folder / "request.json")
    except Exception as problem:  # noqa: BLE001  (the edge of the process: the parent re-raises it)
        _print_traceback()
        failure = _describe(problem)
    answer = ChildAnswer(
        result=result,
        failure=failure,
        cpu_s=time.process_time(),
        peak_rss_bytes=peak_rss_bytes(),
    )
    code = _leave_answer(answer, folder)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the disk of the log is full
            stream.flush()
    # Olive's and Foundry's exit handlers wait seconds for telemetry that is switched off.
    os._exit(code)


def _leave_answer(answer: ChildAnswer, folder: Path) -> int:
    """Rename the answer into place; gives the exit code."""
    partial = folder / "answer.partial"
    try:
        partial.write_text(answer.model_dump_json(), encoding="utf-8")
        partial.replace(folder / "answer.json")
    except OSError:
        _print_traceback()
        return NO_ROOM_FOR_ANSWER
    return 0


def _print_traceback() -> None:
    with contextlib.suppress(OSError):  # the disk of the log is full
        traceback.print_exc()


def _call(target: str, request_file: Path) -> dict[str, Any]:
    leave_torch_out_if_asked()
    module, _, name = target.partition(":")
    with collector_off(at_start=True):
        function: Callable[[BaseModel], BaseModel] = getattr(importlib.import_module(module), name)
    hints = typing.get_type_hints(function)
    request_type = next(kind for key, kind in hints.items() if key != "return")
    request = request_type.model_validate_json(request_file.read_text(encoding="utf-8"))
    return function(request).model_dump(mode="json")


def _describe(problem: Exception) -> Failure:
    known = named(problem)
    return Failure(kind=type(known).__name__, fields=known.to_fields())


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        # Fires when the *thread* that forked ends; that thread waits for us, so it outlives us.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(PARENT_IS_GONE)
    leave_when_stdin_ends()


def leave_when_stdin_ends() -> None:
    """End this process once its standard input ends, a pipe that its parent holds."""
    threading.Thread(target=_await_end_of_stdin, daemon=True).start()


def _await_end_of_stdin() -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 1024):
            pass
    os._exit(PARENT_IS_GONE)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
