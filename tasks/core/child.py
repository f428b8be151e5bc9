"""One heavy step in one child process: deadline, memory bound, tree kill, exact peak memory.

The parent side. A child keeps the flow small and answering: ONNX Runtime GenAI holds the GIL
through a whole prefill, and threads cannot be interrupted at all. What runs inside is
`tasks/core/child_main.py`; what it computes is none of this module's business.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel

from tasks.core.child_main import NO_ROOM_FOR_ANSWER, ChildAnswer
from tasks.core.child_process import (
    QUIET_ENVIRONMENT,
    Child,
    ChildFiles,
    are_stopping,
    children_stopped_on_interrupt,
    hold_if_leaving,
    stop_children,
    stopped_from_outside,
)
from tasks.core.errors import (
    ChildKilled,
    ChildTimedOut,
    DoesNotFit,
    IngotError,
    ToolFailed,
    error_from_fields,
)
from tasks.core.offspring import end_orphans, tree_rss_bytes
from tasks.core.scratch import clear_abandoned, scratch_folder, write_scratch

__all__ = [
    "QUIET_ENVIRONMENT",
    "Usage",
    "children_stopped_on_interrupt",
    "run_child",
    "stop_children",
]

logger = logging.getLogger(__name__)

Result = TypeVar("Result", bound=BaseModel)

POLL_S = 0.1
MIB = 1024 * 1024
MOST_LOG_BYTES, KEPT_LOG_BYTES = 64 * MIB, MIB

# Whoever sends these wants an end, and no other try: a cancel from Prefect's UI goes to the whole
# process group. The out-of-memory killer sends SIGKILL.
_REQUESTS_TO_STOP = ("SIGTERM", "SIGINT", "SIGHUP")


@dataclass(frozen=True)
class Usage:
    """What a child cost.

    Attributes:
        seconds: wall time, start to end.
        cpu_s: user and system seconds of the child.
        peak_rss_bytes: highest resident set size of the child itself, as the kernel counted it.
    """

    seconds: float
    cpu_s: float
    peak_rss_bytes: int


def run_child(
    target: str,
    request: BaseModel,
    result_type: type[Result],
    *,
    log: Path,
    deadline_s: float,
    memory_limit_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[Result, Usage]:
    """Run `package.module:function` on a record in a child process and give its record back.

    Args:
        target: a function of one record that gives one record.
        request: its argument; crosses as JSON.
        result_type: the record that comes back.
        log: file that gets the child's output, appended to.
        deadline_s: the child and all below it are killed after this many seconds.
        memory_limit_bytes: likewise when the tree's resident memory passes this.
        environment: added to the child's environment.
        on_progress: called with each new line that the child reports.

    Raises:
        ChildTimedOut: past the deadline.
        ChildKilled: ended by a signal that was not ours.
        DoesNotFit: past the memory limit.
        EnvironmentUnfit: stopped from outside, as by a cancel; or no room for its scratch files.
        ToolFailed: ended without a result, or failed by an error that is not in Ingot's tree.
        IngotError: whatever the function raised from Ingot's tree.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    _clear_after_the_dead()
    with scratch_folder(target) as folder, log.open("a+b") as output:
        files = ChildFiles(folder)
        write_scratch(files.request, request.model_dump_json(), target)
        started = time.monotonic()
        child = Child.start(target, files, output, environment or {})
        bounds = _Bounds(started + deadline_s, deadline_s, memory_limit_bytes)
        try:
            _watch(child, bounds, on_progress)
        finally:
            child.end()
            hold_if_leaving()
        seconds = time.monotonic() - started
        answer = _read_answer(child, log)
    usage = Usage(seconds, answer.cpu_s, answer.peak_rss_bytes)
    return result_type.model_validate(answer.result), usage


@functools.cache  # once for each process: what is its own, it clears itself
def _clear_after_the_dead() -> None:
    if ended := end_orphans():
        logger.warning("ended %d processes that had outlived a killed run", ended)
    clear_abandoned()


@dataclass(frozen=True)
class _Bounds:
    ends_at: float
    deadline_s: float
    memory_limit_bytes: int | None


def _watch(child: Child, bounds: _Bounds, on_progress: Callable[[str], None] | None) -> None:
    said = ""
    while True:
        try:
            child.process.wait(POLL_S)
            return
        except subprocess.TimeoutExpired:
            pass
        if on_progress and (line := _last_line(child.files.progress)) != said:
            said = line
            on_progress(line)
        _cut_log(child.output)
        _hold_to(bounds, child)


def _hold_to(bounds: _Bounds, child: Child) -> None:
    if time.monotonic() > bounds.ends_at:
        raise ChildTimedOut(
            f"{child.target} was stopped after {bounds.deadline_s:.0f} s",
            next_step="run again on a quieter machine, or with a smaller checkpoint",
        )
    resident = tree_rss_bytes(child.process.pid)
    if bounds.memory_limit_bytes is not None and resident > bounds.memory_limit_bytes:
        raise DoesNotFit(
            f"{child.target} was stopped: it outgrew its memory bound",
            expected=f"at most {bounds.memory_limit_bytes / MIB:,.0f} MiB",
            got=f"{resident / MIB:,.0f} MiB",
            next_step="run it on a machine with more memory",
        )


def _cut_log(output: BinaryIO) -> None:
    """Keep only the end of a log that grows without end: the disk is the store's.

    The child's own writes go on behind it, as the file was opened for appending.
    """
    size = os.fstat(output.fileno()).st_size
    if size > MOST_LOG_BYTES:
        output.seek(size - KEPT_LOG_BYTES)
        end = output.read(KEPT_LOG_BYTES)
        output.truncate(0)
        output.write(b"(what was here was too long and is cut off)\n" + end)
        output.flush()


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _read_answer(child: Child, log: Path) -> ChildAnswer:
    if not child.files.answer.exists():
        raise _without_answer(child.target, child.process.returncode, log)
    answer = ChildAnswer.model_validate_json(child.files.answer.read_text(encoding="utf-8"))
    if answer.failure is not None:
        raise error_from_fields(answer.failure.kind, answer.failure.fields)
    return answer


def _without_answer(target: str, code: int, log: Path) -> IngotError:
    """Say why a child ended without leaving an answer."""
    by = signal.Signals(-code).name if code < 0 else ""
    if are_stopping() or by in _REQUESTS_TO_STOP:
        return stopped_from_outside(target)
    if by:
        return ChildKilled(
            f"{target} was killed by {by}",
            next_step=f"if it happens again look for out-of-memory kills, and at {log}",
        )
    if code == NO_ROOM_FOR_ANSWER:
        return DoesNotFit(
            f"{target} ended, but its answer could not be written",
            next_step=f"free disk space, or point TMPDIR at a folder with room; see {log}",
        )
    return ToolFailed(f"{target} ended with code {code} and no result", next_step=f"see {log}")
