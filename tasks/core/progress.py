"""Telling whoever listens what a step is doing right now.

Carries events only: how they look on a terminal is the command's business (`flows/display.py`),
and without a listener they are log lines.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

log = logging.getLogger(__name__)

PROGRESS_FILE = "INGOT_PROGRESS_FILE"  # set by tasks/core/child.py in a child's environment


class StepState(StrEnum):
    """What happened to a step."""

    STARTED = "started"
    WAITING = "waiting"
    FINISHED = "finished"
    CACHED = "cached"
    FAILED = "failed"


@dataclass(frozen=True)
class StepEvent:
    """One thing that happened to one step.

    Attributes:
        step: name of the step, stable over its life, such as `build int4`.
        state: what happened.
        detail: what is being waited for, or how the step ended; one line.
        at_s: monotonic clock reading.
    """

    step: str
    state: StepState
    detail: str = ""
    at_s: float = field(default_factory=time.monotonic)


Listener = Callable[[StepEvent], None]

_listeners: list[Listener] = []
_mutex = threading.Lock()


def add_listener(listener: Listener) -> None:
    """Send every event of this process to `listener` from now on."""
    with _mutex:
        _listeners.append(listener)


def remove_listener(listener: Listener) -> None:
    """Send it no more."""
    with _mutex:
        _listeners.remove(listener)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every event of this process to `listener` while the block runs."""
    add_listener(listener)
    try:
        yield
    finally:
        remove_listener(listener)


def announce(step: str, state: StepState, detail: str = "", *, at_s: float | None = None) -> None:
    """Tell the listeners, and the log, that something happened to a step; now unless `at_s`."""
    event = StepEvent(step, state, detail, time.monotonic() if at_s is None else at_s)
    level = logging.DEBUG if state is StepState.WAITING else logging.INFO
    log.log(level, "%s %s %s", step, state.value, detail)
    with _mutex:
        listeners = list(_listeners)
    for listener in listeners:
        try:
            listener(event)
        except Exception:
            log.exception("a listener could not take %s", event)


@contextmanager
def step(name: str) -> Iterator[Callable[[str], None]]:
    """Announce start, end and failure of a step; yields a function that says what it waits for."""
    announce(name, StepState.STARTED)
    ending = ""

    def say(detail: str) -> None:
        nonlocal ending
        ending = detail
        announce(name, StepState.WAITING, detail)

    try:
        yield say
    except BaseException as problem:
        announce(name, StepState.FAILED, str(problem))
        raise
    announce(name, StepState.FINISHED, ending)


def report_progress(line: str) -> None:
    """Say from inside a child process, in one line, what it is doing; else a log line."""
    log.debug("%s", line)
    if file := os.environ.get(PROGRESS_FILE):
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
