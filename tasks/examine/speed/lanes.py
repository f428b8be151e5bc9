"""Lanes of a measurement, and the handle of the process that times the variant of one of them.

One line goes to the process, one comes back; what is asked for is the schedule's matter.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.errors import ChildKilled, DoesNotFit, VariantUnusable
from tasks.core.memory import read_memory
from tasks.core.progress import report_progress
from tasks.examine.speed.worker import OUT_OF_MEMORY

Row = dict[str, Any]

# Peak memory of a worker over the size of its folder: FP16 is widened to FP32 while loading.
_RSS_OVER_SIZE = 2.6
_WORKER_BYTES = 200_000_000
_ROOM = 0.7  # of what is available

WORKER = "tasks.examine.speed.worker"


@dataclass(frozen=True)
class Lane:
    """One variant's place in the rounds.

    Attributes:
        name: its precision, or what it is there for.
        session_options: laid over what the folder says.
    """

    name: str
    digest: str
    folder: Path
    session_options: Row = field(default_factory=dict)
    size_bytes: int = 0


class Worker:
    """A process that holds one variant and times it on request.

    Attributes:
        ready: what it said once it had made its first token.
        start_s: from the start of the process to that.
    """

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", WORKER),
                *(str(lane.folder), json.dumps(lane.session_options)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        try:
            self.ready = self._reply()
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - started

    def run(
        self,
        prompt: Sequence[int],
        new_tokens: int,
        *,
        max_length: int | None = None,
        reset_peak: bool = False,
    ) -> Row:
        """Time one run.

        Args:
            prompt: token ids.
            new_tokens: made after it.
            max_length: tokens that the KV cache is made for; None for those of the run.
            reset_peak: let the highest resident memory start anew before it.
        """
        assert self._process.stdin is not None
        request = {
            "prompt": list(prompt),
            "new_tokens": new_tokens,
            "max_length": max_length,
            "reset_peak": reset_peak,
        }
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:  # EPIPE; EINVAL on Windows
            self._raise_ended()
        return self._reply()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _reply(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._raise_ended()
        reply: Row = json.loads(line)
        return reply

    def _raise_ended(self) -> None:
        code = self._process.wait()
        who = f"the timing worker of {self.lane.name}"
        if code < 0:
            raise ChildKilled(
                f"{who} was killed by signal {-code}", next_step="free memory and run again"
            )
        if code == OUT_OF_MEMORY:
            raise DoesNotFit(
                f"{who} ran out of memory",
                next_step="free memory, or take a machine with more, then run it again",
            )
        raise VariantUnusable(
            f"{who} ended with code {code}", next_step="see the log file of the speed measurement"
        )


@contextmanager
def workers_of(lanes: Sequence[Lane]) -> Iterator[list[Worker]]:
    """Start a worker a lane, one after the other, and end them all in the end."""
    with ExitStack() as stack:
        workers = []
        for lane in lanes:
            report_progress(f"loading {lane.name}")
            worker = Worker(lane)
            stack.callback(worker.close)
            workers.append(worker)
        yield workers


def fit_side_by_side(lanes: Sequence[Lane]) -> bool:
    """Tell whether the variants of all lanes fit into memory together."""
    need = sum(_RSS_OVER_SIZE * lane.size_bytes + _WORKER_BYTES for lane in lanes)
    return need < _ROOM * read_memory().available_bytes
