"""Remembering how long each step took and which were cached, for the report of the run."""

from __future__ import annotations

import threading

from tasks.core.progress import StepEvent, StepState
from tasks.report.write import StepTiming


class StepLog:
    """What a listener of one release remembers: `with listening(log.hear)`."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._started: dict[str, float] = {}
        self._timings: list[StepTiming] = []

    @property
    def timings(self) -> list[StepTiming]:
        """Every step that ended, in the order in which they ended."""
        with self._mutex:
            return list(self._timings)

    @property
    def cached(self) -> list[str]:
        """Names of the steps whose result was there already."""
        return [timing.step for timing in self.timings if timing.cached]

    def hear(self, event: StepEvent) -> None:
        """Take one event."""
        with self._mutex:
            if event.state is StepState.STARTED:
                self._started[event.step] = event.at_s
            elif event.state is not StepState.WAITING:
                seconds = event.at_s - self._started.get(event.step, event.at_s)
                cached = event.state is StepState.CACHED
                self._timings.append(
                    StepTiming(step=event.step, seconds=seconds, cached=cached, detail=event.detail)
                )
