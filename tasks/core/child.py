"""One heavy step in one child process: deadline, memory bound, tree kill, exact peak memory.

The parent side. A child keeps the flow small and answering: ONNX Runtime GenAI holds the GIL
through a whole prefill, and threads cannot be interrupted at all. What runs inside is
`tasks/core/child_main.py`; what it computes is none of this module's business.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
from pydantic import BaseModel

from tasks.core.child_main import ChildAnswer
from tasks.core.errors import (
    ChildKilled,
    ChildTimedOut,
    DoesNotFit,
    ToolFailed,
    error_from_fields,
)
from tasks.core.progress import PROGRESS_FILE

Result = TypeVar("Result", bound=BaseModel)

POLL_S = 0.1
MIB = 1024 * 1024

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
_SECRETS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


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
        ToolFailed: ended without a result, or failed by an error that is not in Ingot's tree.
        IngotError: whatever the function raised from Ingot's tree.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ingot-child-") as scratch:
        files = _ChildFiles(Path(scratch))
        files.request.write_text(request.model_dump_json(), encoding="utf-8")
        started = time.monotonic()
        with log.open("ab") as output:
            process = _start(target, files, output.fileno(), environment or {})
            try:
                _watch(process, target, files, deadline_s, memory_limit_bytes, on_progress)
            finally:
                _end(process)
        seconds = time.monotonic() - started
        answer = _read_answer(process, target, files, log)
    usage = Usage(seconds, answer.cpu_s, answer.peak_rss_bytes)
    return result_type.model_validate(answer.result), usage


@dataclass(frozen=True)
class _ChildFiles:
    folder: Path

    @property
    def request(self) -> Path:
        return self.folder / "request.json"

    @property
    def answer(self) -> Path:
        return self.folder / "answer.json"

    @property
    def progress(self) -> Path:
        return self.folder / "progress.txt"


def _start(
    target: str, files: _ChildFiles, output: int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    inherited = {key: value for key, value in os.environ.items() if key not in _SECRETS}
    # Same process group as the flow, because Prefect's worker cancels by group; own output,
    # because an inherited stdout hides the flow's death from the worker; a pipe as stdin, because
    # its end tells the child on every system that the parent is gone.
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tasks.core.child_main",
            target,
            str(files.folder),
            str(os.getpid()),
        ],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env={
            **inherited,
            **QUIET_ENVIRONMENT,
            PROGRESS_FILE: str(files.progress),
            **environment,
        },
    )


def _watch(
    process: subprocess.Popen[bytes],
    target: str,
    files: _ChildFiles,
    deadline_s: float,
    memory_limit_bytes: int | None,
    on_progress: Callable[[str], None] | None,
) -> None:
    ends_at = time.monotonic() + deadline_s
    said = ""
    while True:
        try:
            process.wait(POLL_S)
            return
        except subprocess.TimeoutExpired:
            pass
        if on_progress and (line := _last_line(files.progress)) != said:
            said = line
            on_progress(line)
        if time.monotonic() > ends_at:
            raise ChildTimedOut(
                f"{target} was stopped after {deadline_s:.0f} s",
                next_step="run again on a quieter machine, or with a smaller checkpoint",
            )
        resident = _tree_rss_bytes(process.pid)
        if memory_limit_bytes is not None and resident > memory_limit_bytes:
            raise DoesNotFit(
                f"{target} was stopped: it outgrew its memory bound",
                expected=f"at most {memory_limit_bytes / MIB:,.0f} MiB",
                got=f"{resident / MIB:,.0f} MiB",
                next_step="run it on a machine with more memory",
            )


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _tree_rss_bytes(pid: int) -> int:
    total = 0
    for process in _tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the tree, and reap it."""
    if process.poll() is None:
        tree = _tree(process.pid)
        for member in reversed(tree):
            try:
                member.kill()
            except psutil.Error:
                continue
        process.wait()
        psutil.wait_procs(tree[1:], timeout=5)
    if process.stdin is not None:
        process.stdin.close()


def _read_answer(
    process: subprocess.Popen[bytes], target: str, files: _ChildFiles, log: Path
) -> ChildAnswer:
    code = process.returncode
    if not files.answer.exists():
        if code < 0:
            raise ChildKilled(
                f"{target} was killed by {signal.Signals(-code).name}",
                next_step=f"if it happens again look for out-of-memory kills, and at {log}",
            )
        raise ToolFailed(f"{target} ended with code {code} and no result", next_step=f"see {log}")
    answer = ChildAnswer.model_validate_json(files.answer.read_text(encoding="utf-8"))
    if answer.failure is not None:
        raise error_from_fields(answer.failure.kind, answer.failure.fields)
    return answer
