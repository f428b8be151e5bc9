"""A release that is struck again and again, each time a little further on, until it is let go.

The run that resumes after one fault is the one that meets the next, so every point costs one start.
What a fault cost is the time from the restart until the step that was hit had ended, or until the
run stood at a later point of that step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.faults.bench import Bench
from tests.faults.points import Point
from tests.faults.power_cut import cut_power
from tests.faults.runs import Champion, Run
from tests.faults.table import Row

Strike = Callable[[Bench, Run, int], str]


@dataclass(frozen=True)
class Fault:
    """What happens to a release at one point.

    Attributes:
        name: what the table calls it.
        point: where.
        step: what the resumed run has to end.
        strike: does it; given the id of the process that stands at the point. The run has ended
            when it returns; what it returns is added to what is reported afterwards.
        outcome: what the table says when all held.
    """

    name: str
    point: Point
    step: str
    strike: Strike
    outcome: str = "the same command goes on and ends right"


def kill(point: Point, step: str) -> Fault:
    """Kill the flow; where the point is in a child, while the child stands there."""
    return Fault("kill -9 of the flow", point, step, _kill)


def power_cut(point: Point, step: str) -> Fault:
    """Kill the flow, and take what was not synced."""
    return Fault("power cut", point, step, _cut_power)


def _kill(_: Bench, run: Run, __: int) -> str:
    run.kill()
    return ""


def _cut_power(bench: Bench, run: Run, _: int) -> str:
    run.kill()
    bench.problems += bench.processes_left()
    return f", which lost {cut_power(bench.home, bench.meeting, bench.began_at)}"


def struck_and_resumed(
    bench: Bench, faults: Sequence[Fault], expected: Champion, tell: Callable[[Row], None]
) -> None:
    """Let each fault happen in turn, resume by the same command, and look each time.

    Args:
        expected: what the last run, to which nothing happens, ends with.
        tell: takes a row of the table for each fault.
    """
    before: Fault | None = None
    for fault in faults:
        run = bench.release(fault.point)
        pid = run.reach()
        _tell(bench, before, run, tell)
        more = fault.strike(bench, run, pid)
        bench.look(f"{fault.name} at {fault.point.name!r}{more}")
        before = fault
    run = bench.release()
    bench.require_champion(run, expected, "the last fault")
    _tell(bench, before, run, tell)


def _tell(bench: Bench, fault: Fault | None, run: Run, tell: Callable[[Row], None]) -> None:
    if fault is not None:
        past_it = bench.finished_at(fault.step, run.started_at) or time.time()
        tell(Row(fault.name, fault.point.name, fault.outcome, past_it - run.started_at))


def children_killed(
    bench: Bench,
    points: Sequence[tuple[Point, str]],
    expected: Champion,
    tell: Callable[[Row], None],
) -> None:
    """Kill the child of each step once, in one run, which tries those steps again by itself.

    Args:
        points: where, and the step that has to end after it; in the order in which they come.
        expected: what the run ends with.
        tell: takes a row of the table for each kill.
    """
    run = bench.release(*(point for point, _ in points))
    killed_at = []
    for number in range(len(points)):
        run.kill(run.reach(number))
        killed_at.append(time.time())
    bench.require_champion(run, expected, "children killed")
    for (point, step), at in zip(points, killed_at, strict=True):
        seconds = (bench.finished_at(step, at) or time.time()) - at
        tell(Row("kill -9 of the child", point.name, "the run tries again and ends right", seconds))
