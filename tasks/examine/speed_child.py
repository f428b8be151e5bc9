"""The child of `speed.py`: starts one worker a variant and runs them in rounds.

One worker computes at a time, the others sit idle in memory. Where they do not fit side by side,
each is started by itself, and rounds are paired by their number only.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import psutil

from tasks.core.errors import ChildKilled, DoesNotFit, VariantUnusable
from tasks.core.progress import report_progress
from tasks.examine.protocol import TimingPlan
from tasks.examine.speed import SpeedEvidence, SpeedRequest, TimedVariant
from tasks.examine.speed_metrics import CONTROL, speed_evidence
from tasks.examine.timing_worker import OUT_OF_MEMORY

Row = dict[str, Any]
Item = TypeVar("Item")

# Peak memory of a worker over the size of its folder: FP16 is widened to FP32 while loading.
_RSS_OVER_SIZE = 2.6
_WORKER_BYTES = 200_000_000
_ROOM = 0.7  # of what is available


@dataclass(frozen=True)
class Lane:
    """One variant's place in the rounds; the control lane has the first variant's weights."""

    name: str
    variant: TimedVariant


class Worker:
    """A process that holds one variant and times it on request."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tasks.examine.timing_worker", str(lane.variant.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.ready = self._reply()

    def run(self, prompt: Sequence[int], new_tokens: int) -> Row:
        """Time one run."""
        assert self._process.stdin is not None
        self._process.stdin.write(
            json.dumps({"prompt": list(prompt), "new_tokens": new_tokens}) + "\n"
        )
        self._process.stdin.flush()
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
        if code < 0:
            raise ChildKilled(
                f"the timing worker of {self.lane.variant.precision} was killed by signal {-code}",
                next_step="free memory and run again",
            )
        if code == OUT_OF_MEMORY:
            raise DoesNotFit(
                f"the timing worker of {self.lane.variant.precision} ran out of memory",
                next_step="free memory, or take a machine with more, then run it again",
            )
        raise VariantUnusable(
            f"the timing worker of {self.lane.variant.precision} ended with code {code}",
            next_step="see the log file of the speed measurement",
        )


def examine(request: SpeedRequest) -> SpeedEvidence:
    """Time all variants and summarise each."""
    lanes = [Lane(variant.precision.value, variant) for variant in request.variants]
    lanes.append(Lane(CONTROL, request.variants[0]))
    timing = _Timing(lanes, request.protocol.timing, request.protocol.seed)
    timing.measure()
    samples, launches = pd.DataFrame(timing.samples), pd.DataFrame(timing.launches)
    samples.to_parquet(request.frames / "samples.parquet")
    launches.to_parquet(request.frames / "launches.parquet")
    return SpeedEvidence(
        evidence=[
            speed_evidence(lane.name, lanes[0].name, samples, launches, request.protocol)
            for lane in lanes[:-1]
        ]
    )


class _Timing:
    """The schedule: launches, warm-ups, interleaved rounds, within a budget of time."""

    def __init__(self, lanes: Sequence[Lane], plan: TimingPlan, seed: int) -> None:
        self.samples: list[Row] = []
        self.launches: list[Row] = []
        self._lanes = lanes
        self._plan = plan
        self._random = random.Random(seed)  # noqa: S311  (an order of runs, not a secret)
        self._prompt = _prompt(lanes[0].variant.folder, plan.prompt_tokens, seed)
        self._started = time.monotonic()

    def measure(self) -> None:
        """Run launches until the plan is done, or the time is spent and the least is done."""
        side_by_side = _fit_side_by_side(self._lanes)
        for launch in range(self._plan.launches):
            if launch >= self._plan.least_launches and self._spent() > self._plan.budget_s:
                return
            blocks = [self._shuffled(self._lanes)]
            if not side_by_side:
                blocks = [[lane] for lane in blocks[0]]
            for number, block in enumerate(blocks, start=1):
                self._run_block(launch, block, (launch + number / len(blocks)))

    def _run_block(self, launch: int, lanes: Sequence[Lane], launches_done: float) -> None:
        """Start workers, warm them up, and run rounds until this block's time is spent."""
        plan = self._plan
        ends_s = plan.budget_s * launches_done / plan.launches
        with _workers(lanes) as workers:
            for worker in workers:
                self.launches.append({"lane": worker.lane.name, "launch": launch, **worker.ready})
            for number in range(plan.warmups):
                self._run_round(launch, -1 - number, workers, phase="warm-up")
            for number in range(plan.rounds):
                if number >= plan.least_rounds and self._spent() > ends_s:
                    return
                report_progress(
                    f"speed, launch {launch + 1}/{plan.launches}, round {number + 1}/{plan.rounds}"
                )
                self._run_round(launch, number, self._shuffled(workers), phase="run")

    def _run_round(
        self, launch: int, number: int, workers: Sequence[Worker], *, phase: str
    ) -> None:
        for order, worker in enumerate(workers):
            timing = worker.run(self._prompt, self._plan.new_tokens)
            self.samples.append(
                {
                    "lane": worker.lane.name,
                    "digest": worker.lane.variant.digest,
                    "launch": launch,
                    "round": number,
                    "order": order,
                    "phase": phase,
                    "prompt_tokens": self._plan.prompt_tokens,
                    "new_tokens": self._plan.new_tokens,
                    "load_average": psutil.getloadavg()[0],
                    "cpu_pressure": cpu_pressure(),
                    **timing,
                }
            )

    def _spent(self) -> float:
        return time.monotonic() - self._started

    def _shuffled(self, items: Sequence[Item]) -> list[Item]:
        return self._random.sample(items, len(items))


@contextmanager
def _workers(lanes: Sequence[Lane]) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        workers = []
        for lane in lanes:
            report_progress(f"loading {lane.name}")
            worker = Worker(lane)
            stack.callback(worker.close)
            workers.append(worker)
        yield workers


def _fit_side_by_side(lanes: Sequence[Lane]) -> bool:
    need = sum(_RSS_OVER_SIZE * lane.variant.size_bytes + _WORKER_BYTES for lane in lanes)
    return need < _ROOM * psutil.virtual_memory().available


def _prompt(folder: Path, tokens: int, seed: int) -> list[int]:
    """Draw token ids; what they say does not change how long they take."""
    model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    draw = random.Random(seed)  # noqa: S311  (a prompt, not a secret)
    return [draw.randrange(model["vocab_size"]) for _ in range(tokens)]


def cpu_pressure() -> float | None:
    """Give the share of the last 10 s in which some process waited for a CPU, in percent.

    None where the kernel does not tell (no Linux, or no pressure stall information).
    """
    try:
        line = Path("/proc/pressure/cpu").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    return float(line.split("avg10=")[1].split()[0])
