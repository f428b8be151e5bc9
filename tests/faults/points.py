"""Places in a run at which a fault is planted, as the harness and the shim both name them.

Standard library only: the shim reads this in every process of a run, before anything else.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

FOLDER = "INGOT_FAULTS"  # environment variable: the folder in which the two sides meet
FLOW = "flow"
WATCHER = "watcher"


@dataclass(frozen=True)
class Point:
    """One place in one process; whoever comes there first stops until the harness has acted.

    Attributes:
        name: what the table calls it; unique within a run.
        at: `step`: the flow announces `what` in the state `when`; `says`: a child reports a line
            that `what` matches; `rename`: a file or folder whose new path `what` matches is about
            to be renamed (`when="before"`) or was (`after`); `write`: a file whose path `what`
            matches was opened for writing, and has nothing in it yet; `read`: a file was opened
            during the step `when`.
        who: `FLOW`, `WATCHER`, or the target of a child such as `tasks.variants.probe`.
        nth: which time, from 1.
    """

    name: str
    at: Literal["step", "says", "rename", "write", "read"]
    what: str
    when: str = "after"
    who: str = FLOW
    nth: int = 1


def of_step(step: str, state: str) -> Point:
    """The flow announces a step as `started`, `waiting` or `finished`."""
    return Point(f"{step}, {state}", "step", step, state)


def in_child(step: str, target: str, line: str = "") -> Point:
    """A child of a step reports a line."""
    return Point(f"{step}, in its child", "says", line, who=target)


def at_rename(name: str, path: str, when: str, who: str = FLOW) -> Point:
    """Something is renamed to a path."""
    return Point(name, "rename", path, when, who)


def at_write(name: str, path: str, who: str = FLOW) -> Point:
    """A file is open for writing, and empty."""
    return Point(name, "write", path, who=who)


def at_read(name: str, path: str, step: str, nth: int) -> Point:
    """A file is opened for the n-th time in a step."""
    return Point(name, "read", path, step, nth=nth)


class Meeting:
    """The folder in which a run says where it stopped, and what it did meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.points_file = folder / "points.json"
        self.journal = folder / "journal.jsonl"
        self.synced = folder / "synced.jsonl"

    def plant(self, points: list[Point]) -> None:
        """Make these the points of the processes that start from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in range(len(self.points())):
            self.reached_file(number).unlink(missing_ok=True)
        self.points_file.write_text(json.dumps([asdict(point) for point in points]))

    def points(self) -> list[Point]:
        """The points that are planted."""
        if not self.points_file.exists():
            return []
        return [Point(**fields) for fields in json.loads(self.points_file.read_text())]

    def reached_file(self, number: int) -> Path:
        """There once a process stopped at this point; holds its id."""
        return self.folder / f"reached-{number}"

    def entries(self) -> list[dict[str, object]]:
        """Everything that the processes wrote down, oldest first."""
        if not self.journal.exists():
            return []
        return [json.loads(line) for line in self.journal.read_text().splitlines()]
