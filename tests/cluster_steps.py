"""Small steps for a real cluster; in a module, because workers import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from prefect import task

from tasks.core.errors import VariantUnusable
from tasks.core.progress import step
from tasks.core.records import Measurement
from tasks.core.task import RETRYING, UNCACHED, cached

TOOK_S = 2.0


@task(
    name="measure thing", task_run_name="measure {thing}", **cached(lambda given: [given["thing"]])
)
def measure(thing: str) -> Measurement:
    """Take a while, and say where."""
    with step(f"measure {thing}") as say:
        time.sleep(TOOK_S)
        say(f"in process {os.getpid()}")
    return Measurement(value=1.0)


@task(name="fail", task_run_name="fail {thing}", **RETRYING, **UNCACHED)
def fail(thing: str) -> Measurement:
    """Fail for good."""
    with step(f"fail {thing}"):
        raise VariantUnusable("planted", next_step="none")


@task(name="die", task_run_name="die {thing}", **RETRYING, **UNCACHED)
def die(thing: str, diary: Path, times: int) -> Measurement:
    """Take the worker along, as the out-of-memory killer does."""
    with diary.open("a", encoding="utf-8") as stream:
        stream.write("died\n")
    if len(diary.read_text(encoding="utf-8").splitlines()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return Measurement(value=2.0)


@task(name="occupy", task_run_name="occupy {thing}", **RETRYING, **UNCACHED)
def occupy(thing: str, diary: Path) -> Measurement:
    """Take a while, and leave a trace."""
    with step(f"occupy {thing}"):
        write_line(diary, f"began {thing}")
        time.sleep(TOOK_S)
        write_line(diary, f"ended {thing}")
    return Measurement(value=1.0)


def write_line(diary: Path, line: str) -> None:
    with diary.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")
