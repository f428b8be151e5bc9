"""What is left of an edge suite whose process died: which cases were begun, and what came of them.

One JSON line an event, appended; who died and why is the parent's matter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.core.records import Record


class Outcome(Record):
    """A case that was run, or that its process did not survive."""

    case: str
    expected: str
    got: str
    passed: bool
    seconds: float


class Begun(Record):
    """A case that was begun."""

    case: str
    expected: str

    def failed(self, got: str) -> Outcome:
        """Say that it failed, where it could not say so itself."""
        return Outcome(**self.model_dump(), got=got, passed=False, seconds=0.0)


class Journal:
    """A file of events.

    Args:
        file: made when the first event is written.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def begin(self, begun: Begun) -> None:
        """Say that a case begins."""
        self._write("begun", begun)

    def end(self, outcome: Outcome) -> None:
        """Say what came of it."""
        self._write("outcome", outcome)

    def outcomes(self) -> dict[str, Outcome]:
        """Give what came of the cases that were ended, by name."""
        ended = map(Outcome.model_validate, self._read("outcome"))
        return {outcome.case: outcome for outcome in ended}

    def unfinished(self) -> Begun | None:
        """Give the case that was begun last, if nothing came of it."""
        begun = [Begun.model_validate(event) for event in self._read("begun")]
        return begun[-1] if begun and begun[-1].case not in self.outcomes() else None

    def _write(self, kind: str, record: Record) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({kind: record.model_dump(mode="json")}) + "\n")

    def _read(self, kind: str) -> list[Any]:
        if not self._file.exists():
            return []
        lines = self._file.read_text(encoding="utf-8").splitlines()
        return [event[kind] for event in map(json.loads, lines) if kind in event]
