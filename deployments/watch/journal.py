"""What was announced, so that it is announced once, across restarts too.

One JSON file, replaced as a whole: it is the old or the new one whenever the watcher is killed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from deployments.watch.announcement import Announcement
from deployments.watch.sighting import Landed, Sighting
from tasks.core.errors import EnvironmentUnfit
from tasks.core.files import write_text_atomically
from tasks.core.records import Digest, Record


class Decided(Record):
    """What was found out about a folder as it was then.

    Attributes:
        reason: why it is broken; None for a whole checkpoint.
    """

    signature: str
    name: str
    digest: Digest | None = None
    reason: str | None = None
    at: datetime


class Announced(Record):
    """The first time that these bytes were announced under this name, with questions or without."""

    path: str
    event: str
    at: datetime


class _Pages(Record):
    version: Literal[1] = 1
    folders: dict[str, Decided] = Field(default_factory=dict)
    announced: dict[str, Announced] = Field(default_factory=dict)


class Journal:
    """The journal of one INGOT_HOME; one watcher writes it.

    Args:
        file: where it is kept; made at the first entry.

    Raises:
        EnvironmentUnfit: it is there and cannot be read. Taking it for empty would announce
            everything again.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.is_saved = True
        pages = _read(file)
        self._folders = dict(pages.folders)
        self._announced = dict(pages.announced)

    def knows(self, sighting: Sighting) -> bool:
        """Tell whether this folder was decided as it is now."""
        decided = self._folders.get(sighting.key)
        return decided is not None and decided.signature == sighting.signature

    def announced(self, digest: str, name: str, has_questions: bool) -> Announced | None:
        """Give when and where these bytes were announced under this name first.

        Announced without questions, they are news once they have some; the other way round nothing
        is gained. Of what an older watcher took down nobody knows whether it had some: it counts.
        """
        keys = [_key(digest, name, True), f"{digest}/{name}"]
        if not has_questions:
            keys.append(_key(digest, name, False))
        return next((self._announced[key] for key in keys if key in self._announced), None)

    def enter(self, announcement: Announcement) -> None:
        """Take down what the server has taken."""
        now = datetime.now(UTC)
        about = announcement.sighting
        self._folders[about.key] = Decided(
            signature=about.signature,
            name=announcement.name,
            digest=announcement.digest,
            reason=announcement.payload.get("reason"),
            at=now,
        )
        if announcement.digest:
            first = Announced(path=about.key, event=str(announcement.id), at=now)
            key = _key(announcement.digest, announcement.name, announcement.has_questions)
            self._announced.setdefault(key, first)
        self.is_saved = False

    def enter_known(self, sighting: Sighting, landed: Landed) -> None:
        """Take down a folder whose bytes were announced before, so that it is not read again."""
        self._folders[sighting.key] = Decided(
            signature=sighting.signature,
            name=landed.name,
            digest=landed.digest,
            at=datetime.now(UTC),
        )
        self.is_saved = False

    def save(self) -> None:
        """Write the entries down.

        Raises:
            OSError: the disk is full or read-only; the file is then as it was.
        """
        pages = _Pages(folders=self._folders, announced=self._announced)
        write_text_atomically(self._file, pages.model_dump_json(indent=1) + "\n")
        self.is_saved = True


def _key(digest: str, name: str, has_questions: bool) -> str:
    return f"{digest}/{name}/{'questions' if has_questions else 'no questions'}"


def _read(file: Path) -> _Pages:
    try:
        return _Pages.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return _Pages()
    except (OSError, ValidationError) as problem:
        raise EnvironmentUnfit(
            f"{file} cannot be read, so what was announced before is not known",
            expected="the journal that `ingot watch` writes",
            got=str(problem).splitlines()[0],
            next_step="move it aside and start again: what is in the watched folders is then "
            "announced anew, except what the server still remembers",
        ) from problem
