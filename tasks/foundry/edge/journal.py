"""What has happened so far, in a file that outlives the process it happened in.

One line an event, written and closed at once. A native crash of the runtime takes its process
along; which case it was in is then read here.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tasks.core.records import Record
from tasks.foundry.edge.case import Case, Result, Row, shown


class Killing(Record):
    """What a process had cost when it killed itself."""

    cpu_s: float
    peak_rss_bytes: int


class Event(Record):
    """One line; exactly one field is set.

    Attributes:
        usual: the answer to the plain question while nothing is wrong.
        started: a case is put now.
        killing: the process that serves is about to kill itself, as planned.
        row: a case that is over.
    """

    usual: str | None = None
    started: str | None = None
    killing: Killing | None = None
    row: Row | None = None


class Journal:
    """The events of one suite on one variant.

    Args:
        file: need not be there yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def note(self, event: Event) -> None:
        """Write one event down."""
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(event.model_dump_json() + "\n")

    def rows(self) -> list[Row]:
        """Give the cases that are over, in order."""
        return [event.row for event in self._events() if event.row is not None]

    def usual(self) -> str | None:
        """Give the usual answer; None before it was heard."""
        return next((event.usual for event in self._events() if event.usual is not None), None)

    def in_progress(self) -> str | None:
        """Give the name of the case that was started and is not over."""
        over = {row.case for row in self.rows()}
        started = [event.started for event in self._events() if event.started is not None]
        return started[-1] if started and started[-1] not in over else None

    def is_killed(self) -> bool:
        """Tell whether the last thing that was done was the planned end of the process."""
        events = self._events()
        return bool(events) and events[-1].killing is not None

    def killing(self) -> Killing | None:
        """Give what the process that was killed had cost; None when none was."""
        return next((event.killing for event in self._events() if event.killing), None)

    def fail(self, case: Case, why: str) -> None:
        """Write down that a case was not survived."""
        row = Row(
            case=case.name,
            expected=case.expected,
            got=shown(why),
            result=Result.BROKEN,
            survived=False,
            seconds=0.0,
        )
        self.note(Event(row=row))

    def _events(self) -> list[Event]:
        if not self._file.is_file():
            return []
        events = []
        for line in self._file.read_text(encoding="utf-8").splitlines():
            try:
                events.append(Event.model_validate_json(line))
            except ValidationError:
                break  # torn: its writer was killed in it
        return events
