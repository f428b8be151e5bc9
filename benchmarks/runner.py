"""Rounds: in each, every lane once, in an order drawn anew, each in processes of its own.

What a lane measures is the sections' matter; how a command is clocked is `spawn.py`'s.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.kept import Kept
from benchmarks.places import ROOT, Work
from benchmarks.records import Cost, Lane, NotMeasured, Plan
from tasks.core.child import QUIET_ENVIRONMENT
from tasks.core.errors import IngotError

DEADLINE_S = 3600.0
LOAD = "load"
_SPAWN = Path(__file__).with_name("spawn.py")


def run_rounds(lanes: Sequence[Lane], plan: Plan, kept: Kept) -> None:
    """Measure what is not kept yet; a lane that cannot be measured says why, the others go on."""
    lost: set[str] = set()
    for number in range(plan.rounds):
        draw = random.Random(f"{plan.seed} {number}")  # noqa: S311  (an order, not a secret)
        for lane in draw.sample(list(lanes), len(lanes)):
            if lane.name in lost or kept.has(lane.name, number):
                continue
            tell(f"{kept.conditions.section}, round {number + 1} of {plan.rounds}: {lane.name}")
            load = psutil.getloadavg()[0]
            try:
                readings = lane.measure(number)
            except (NotMeasured, IngotError, OSError) as problem:
                lost.add(lane.name)
                kept.give_up(lane.name, str(problem))
                tell(f"  not measured: {problem}")
            else:
                kept.add(lane.name, number, {**readings, LOAD: load})


def tell(line: str) -> None:
    """Say what is going on."""
    print(line, flush=True)


def python(module: str, *arguments: object) -> list[str]:
    """Give the command that runs a module of this checkout."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def cost_of(
    command: Sequence[str],
    work: Work,
    *,
    environment: Mapping[str, str] | None = None,
    watch: Path | None = None,
    output: Path | None = None,
    codes: Sequence[int] = (0,),
    deadline_s: float = DEADLINE_S,
) -> Cost:
    """Run a command in the repository, and give what it cost.

    Args:
        command: what is run.
        work: keeps its log.
        environment: added to that of a quiet child: no telemetry, no network.
        watch: folder whose size is followed.
        output: gets its standard output; the log does where it is None.
        codes: exit codes that are well.
        deadline_s: it is killed after this many seconds.

    Raises:
        NotMeasured: it ended with another code; names the log.
    """
    work.logs.mkdir(parents=True, exist_ok=True)
    log = work.logs / f"{_name_of(command)}.log"
    order = {
        "command": list(command),
        "environment": {
            **os.environ,
            **QUIET_ENVIRONMENT,
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
        },
        "folder": str(ROOT),
        "log": str(log),
        "output": str(output) if output else None,
        "watch": str(watch) if watch else None,
        "deadline_s": deadline_s,
    }
    parent = subprocess.run(
        [sys.executable, "-I", "-S", str(_SPAWN)],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
    )
    if parent.returncode:
        raise NotMeasured(f"{_name_of(command)} could not be run: {_last_line(parent.stderr)}")
    found = json.loads(parent.stdout)
    code = found.pop("code")
    if code not in codes:
        raise NotMeasured(f"{_name_of(command)} ended with code {code}, see logs/{log.name}")
    return Cost.model_validate(found)


def _name_of(command: Sequence[str]) -> str:
    """Name a command after its module or its program."""
    words = list(command)
    name = words[words.index("-m") + 1] if "-m" in words else Path(words[0]).name
    return name.removeprefix("benchmarks.")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"


def warm(folder: Path) -> None:
    """Read every file of a folder once, so that every lane finds it in memory."""
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with file.open("rb") as stream:
                while stream.read(1 << 24):
                    pass
