"""A watched folder on a fake clock, and a fake server: the watcher without threads and Prefect."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from deployments.watch.announcement import Announcement
from deployments.watch.journal import Journal
from deployments.watch.lander import Lander
from deployments.watch.local import LocalPlace
from deployments.watch.postman import Outbox
from deployments.watch.server import ServerAway
from deployments.watch.sighting import Place
from tasks.core.errors import IngotError

QUIET_S, GIVE_UP_S = 5.0, 600.0


class Scene:
    """One place, one lander; `at` is the clock."""

    def __init__(
        self,
        root: Path,
        *,
        place: Place | None = None,
        name: str | None = None,
        again: bool = False,
        journal: Path | None = None,
    ) -> None:
        self.landing = root / "landing"
        self.landing.mkdir(parents=True, exist_ok=True)
        self.place = place or LocalPlace(self.landing, name=name, quiet_s=QUIET_S)
        self.journal_file = journal or root / "journal.json"
        self.journal = Journal(self.journal_file)
        self.outbox = Outbox()
        self.lines: list[str] = []
        self.read: list[str] = []
        self.lander = Lander(
            journal=self.journal,
            outbox=self.outbox,
            say=lambda kind, text, **_facts: self.lines.append(f"{kind} {text}"),
            name=name,
            give_up_s=GIVE_UP_S,
            again=again,
        )

    def at(self, now: float) -> list[Announcement]:
        """Look, read what is due, and give what is on its way to the server."""
        self.lander.saw(self.place, self.place.look(), now)
        for place, sighting in self.lander.due(now):
            self.read.append(sighting.key)
            try:
                outcome = place.take_in(sighting)
            except (IngotError, OSError) as problem:
                outcome = problem
            self.lander.examined(sighting, outcome, now)
        return self.outbox.waiting()

    def deliver(self) -> list[Announcement]:
        """Have the server take everything, as the postman would."""
        taken = self.outbox.waiting()
        for announcement in taken:
            self.outbox.done(announcement)
            self.lander.arrived(announcement)
        self.journal.save()
        return taken

    def said(self, kind: str) -> list[str]:
        """Give the lines of one kind."""
        return [line for line in self.lines if line.startswith(f"{kind} ")]


def touch_later(path: Path, *, by_s: float = 0.05) -> None:
    """Set a file's change a little after all others, beyond the grain of the kernel's clock."""
    time.sleep(by_s)
    path.write_bytes(path.read_bytes() if path.exists() else b"")


def set_mtime(folder: Path, when: float) -> None:
    """Give every file of a folder, and the folder, a time of change."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (when, when))


class FakeServer:
    """Takes an id once in its life and stores it later, as the real one (tests/flow) does.

    `lives` is false while it is down; `kill` forgets what was not stored.
    """

    def __init__(self) -> None:
        self.lives = True
        self.stored: set[UUID] = set()
        self.runs: list[UUID] = []
        self._taken: set[UUID] = set()

    def listed(self, ids: Sequence[UUID]) -> set[UUID]:
        self._require_life()
        return self.stored & set(ids)

    def post(self, events: Sequence[dict[str, object]]) -> None:
        self._require_life()
        for event in events:
            one = UUID(str(event["id"]))
            if one not in self._taken:
                self._taken.add(one)
                self.runs.append(one)

    def store(self) -> None:
        self.stored |= self._taken

    def kill(self) -> None:
        self.lives = False
        self.runs = [one for one in self.runs if one in self.stored]
        self._taken.clear()

    def _require_life(self) -> None:
        if not self.lives:
            raise ServerAway("http://x does not answer")
