"""Tickets of steps that run or wait, as files of which each is under its holder's kernel lock.

The order in which they were drawn is in their names, whether they run in their endings, so that one
listing shows that something changed. Who may run is decided in `reservations.py`.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict

from tasks.core.files import make_private_folder
from tasks.core.locks import Claims

GIB = 1024**3
WAITING, RUNNING = ".waiting", ".running"


class Ticket(BaseModel):
    """What one step has reserved or waits for.

    Attributes:
        step: what the user knows it as.
        process: for the reader only; whether it lives, its lock says.
        wanted_bytes: its forecast.
        exclusive: nothing else may run beside it.
        since: when it was drawn, for the reader only.
        capacity_bytes: what the steps that run may have together, measured when nothing ran; None
            while it waits.
    """

    # What a newer Ingot adds is no reason not to read what this one knows.
    model_config = ConfigDict(frozen=True, extra="ignore")

    step: str
    process: int
    wanted_bytes: int
    exclusive: bool
    since: AwareDatetime
    capacity_bytes: int | None = None

    def in_words(self) -> str:
        """Say what it holds."""
        if self.exclusive:
            return f"{self.step} has the machine to itself"
        if not self.wanted_bytes:
            return f"{self.step} runs"
        return f"{self.step} holds {self.wanted_bytes / GIB:.1f} GiB"


class TicketFolder:
    """The tickets of one machine and one user; they mean nothing after a restart.

    Args:
        folder: made when it is needed, for this user alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._claims = Claims(folder)

    @contextmanager
    def mutex(self) -> Iterator[None]:
        """Be the only one who reads and changes tickets, for a moment."""
        with self._claims.mutex():
            yield

    @contextmanager
    def drawn(self, ticket: Ticket) -> Iterator[str]:
        """Draw a ticket that comes after all others, and give its name; given back at the end.

        Raises:
            OSError: the folder belongs to somebody else, or cannot be written.
        """
        make_private_folder(self._folder)
        with contextlib.ExitStack() as held:
            with self.mutex():
                last = max((int(name.partition("-")[0]) for name in self.living()), default=0)
                name = f"{last + 1:012}-{uuid.uuid4().hex[:12]}"
                lock = self._claims.take(name)
                held.callback(self._claims.give_back, name, lock)
                held.callback(self._drop, name)
                self._write(name, WAITING, ticket)
            yield name

    def let_run(self, name: str, ticket: Ticket) -> None:
        """Write that a ticket runs; under the mutex."""
        self._write(name, RUNNING, ticket)
        self._unlink(name, WAITING)

    def living(self) -> dict[str, Ticket]:
        """Read the tickets of living processes in the order in which they were drawn.

        Under the mutex: those of dead ones are cleared away.
        """
        found = {}
        for name in sorted(self._claims.names()):
            is_held = self._claims.is_held(name)
            ticket = self._read(name) if is_held else None
            if ticket is not None:
                found[name] = ticket
            elif not is_held:
                self._drop(name)
                self._claims.forget(name)
        return found

    def is_held(self, name: str) -> bool:
        """Tell whether a ticket's holder lives and has not given it back."""
        return self._claims.is_held(name)

    def files(self) -> frozenset[str]:
        """List the names of all files: whatever happens to a ticket but a death changes them."""
        return frozenset(os.listdir(self._folder))  # noqa: PTH208  (names are all that is wanted)

    def _read(self, name: str) -> Ticket | None:
        for state in (RUNNING, WAITING):
            with contextlib.suppress(FileNotFoundError):
                return Ticket.model_validate_json((self._folder / f"{name}{state}").read_bytes())
        return None  # given back at this moment

    def _write(self, name: str, state: str, ticket: Ticket) -> None:
        # In place: readers hold the mutex too, and a half-written one has a dead holder.
        text = ticket.model_dump_json(indent=1)
        (self._folder / f"{name}{state}").write_text(text, encoding="utf-8")

    def _drop(self, name: str) -> None:
        for state in (RUNNING, WAITING):
            self._unlink(name, state)

    def _unlink(self, name: str, state: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / f"{name}{state}").unlink()
