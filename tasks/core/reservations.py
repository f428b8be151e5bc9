"""Letting the heavy steps of all Ingot's processes on this machine run side by side, or alone.

A step draws a ticket before it starts, and tickets are served in the order in which they were
drawn, so that neither a large step nor one that wants the machine to itself waits for ever. One
whose holder is killed counts no more. Knows nothing of what the steps do, and trusts what they ask
for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from tasks.core.child_process import are_stopping, stopped_from_outside
from tasks.core.errors import DoesNotFit, EnvironmentUnfit, ResourceBusy, named
from tasks.core.memory import Memory, read_memory
from tasks.core.settings import Settings
from tasks.core.tickets import GIB, Ticket, TicketFolder

RESERVE_BYTES = 2 * GIB  # for the system and the flow itself

FIRST_POLL_S, POLL_S, SLOWEST_POLL_S = 0.01, 0.2, 1.0
LOOK_AGAIN_S = 5.0  # other programs may have given memory back
FOLDER = "reservations"

Say = Callable[[str], None]


@contextmanager
def reserve_memory(
    wanted_bytes: int, *, step: str, say: Say = lambda _line: None
) -> Iterator[None]:
    """Wait until the machine has the memory for a step, and hold it while the block runs.

    One step never reserves inside another. Child processes do not reserve: their parent has.

    Args:
        wanted_bytes: the step's forecast; one that wants more than there is runs alone.
        step: what others who wait read.
        say: told what is waited for.

    Raises:
        EnvironmentUnfit: the folder of the reservations cannot be used, or the run was stopped.
        ResourceBusy: that folder was cleared, or a process was stopped in the middle of it.
    """
    with _machine().hold(step, wanted_bytes=wanted_bytes, say=say):
        yield


@contextmanager
def reserve_machine(*, step: str, say: Say = lambda _line: None) -> Iterator[None]:
    """Wait until nothing else is reserved on this machine, and keep it so while the block runs.

    For what is timed. Args and errors are those of `reserve_memory`.
    """
    with _machine().hold(step, exclusive=True, say=say):
        yield


@contextmanager
def reserve_reading(*, step: str, say: Say = lambda _line: None) -> Iterator[None]:
    """Wait until nothing is timed on this machine, and let nothing be timed while the block runs.

    For what keeps the processor or the disk busy and takes no memory worth counting. Args and
    errors are those of `reserve_memory`.
    """
    with _machine().hold(step, say=say):
        yield


def usable_bytes(memory: Memory) -> int:
    """Give what steps may have of the memory that is available."""
    return max(memory.available_bytes - RESERVE_BYTES, memory.available_bytes // 2)


@dataclass(frozen=True)
class _View:
    """Why a ticket waits, and what must change before it is worth looking again.

    Attributes:
        words: for the user.
        files: names in the folder.
        blockers: tickets whose holder may have died, which changes no name.
        poll_s: how often to look; the further behind, the less, as somebody may be timing.
    """

    words: str
    files: frozenset[str]
    blockers: list[str]
    poll_s: float


class Reservations:
    """What the steps of one machine have reserved.

    Args:
        folder: of the tickets.
        read: tells the memory of the moment.
    """

    def __init__(self, folder: Path, *, read: Callable[[], Memory] = read_memory) -> None:
        self._folder = folder
        self._tickets = TicketFolder(folder)
        self._read = read

    @contextmanager
    def hold(
        self,
        step: str,
        *,
        wanted_bytes: int = 0,
        exclusive: bool = False,
        say: Say = lambda _line: None,
    ) -> Iterator[None]:
        """Draw a ticket, wait until it is served, and keep it while the block runs.

        Raises:
            RuntimeError: this thread has a ticket already, and would wait for itself.
        """
        if getattr(_thread, "step", None):
            raise RuntimeError(f"{step} reserves inside of {_thread.step}, which it would wait for")
        ticket = Ticket(
            step=step,
            process=os.getpid(),
            wanted_bytes=wanted_bytes,
            exclusive=exclusive,
            since=datetime.now(UTC),
        )
        with ExitStack() as held:
            with self._faults_in_words():
                name = held.enter_context(self._tickets.drawn(ticket))
                self._wait(name, ticket, say)
            _thread.step = step
            held.callback(setattr, _thread, "step", None)
            yield

    def tickets(self) -> list[Ticket]:
        """Give all tickets of living processes in the order in which they were drawn."""
        with self._tickets.mutex():
            return list(self._tickets.living().values())

    def _wait(self, name: str, ticket: Ticket, say: Say) -> None:
        said, pause_s = "", FIRST_POLL_S
        while (view := self._serve(name, ticket)) is not None:
            if view.words != said:
                said = view.words
                say(said)
            look_again_at = time.monotonic() + LOOK_AGAIN_S
            while time.monotonic() < look_again_at and not self._has_changed(view):
                if are_stopping():  # else this thread would keep a cancelled flow from ending
                    raise stopped_from_outside(ticket.step)
                time.sleep(pause_s)
                pause_s = min(view.poll_s, 1.5 * pause_s)

    def _has_changed(self, view: _View) -> bool:
        """Tell whether it is worth looking: one listing and few locks, because many may wait."""
        alive = all(map(self._tickets.is_held, view.blockers))
        return not alive or view.files != self._tickets.files()

    def _serve(self, name: str, ticket: Ticket) -> _View | None:
        """Let a ticket run if it may; else tell what it waits for."""
        with self._tickets.mutex():
            tickets = self._tickets.living()
            if name not in tickets:
                raise ResourceBusy(
                    f"the ticket of {ticket.step} was cleared away while it waited",
                    expected=f"nobody but Ingot changes {self._folder}",
                    next_step="run the same command again",
                )
            running = {n: t for n, t in tickets.items() if t.capacity_bytes is not None}
            ahead = [n for n in tickets if n < name and n not in running]
            holders = list(running.values())
            capacity = None if ahead else self._room_for(ticket, holders)
            if capacity is not None:
                update = {"capacity_bytes": capacity}
                self._tickets.let_run(name, ticket.model_copy(update=update))
                return None
            # Whoever is behind others learns from the one before that its turn has come.
            blockers = ahead[-1:] or list(running)
            return _View(
                words=_reason(ticket, holders, len(ahead)),
                files=self._tickets.files(),
                blockers=blockers,
                poll_s=min(SLOWEST_POLL_S, POLL_S * (1 + len(ahead))),
            )

    def _room_for(self, ticket: Ticket, running: list[Ticket]) -> int | None:
        """Give the capacity that a ticket may run under, or None if it must wait."""
        usable = usable_bytes(self._read())
        if not running:
            return usable
        if ticket.exclusive or any(other.exclusive for other in running):
            return None
        # What is available now misses what the others use already, and has what they will use
        # soon: so the measurement from before them counts, and today's as a second bound.
        capacity = min(other.capacity_bytes or 0 for other in running)
        taken = sum(other.wanted_bytes for other in running)
        fits = taken + ticket.wanted_bytes <= capacity and ticket.wanted_bytes <= usable
        return capacity if fits else None

    @contextmanager
    def _faults_in_words(self) -> Iterator[None]:
        """Say what a fault of the folder means."""
        try:
            yield
        except (OSError, NotImplementedError, ValidationError) as problem:
            kind = DoesNotFit if isinstance(named(problem), DoesNotFit) else EnvironmentUnfit
            raise kind(
                "memory cannot be reserved for the heavy steps of this machine",
                expected=f"a folder of this user's own with room for small files: {self._folder}",
                got=f"{type(problem).__name__}: {problem}",
                next_step="mend it, or set INGOT_MACHINE to another folder of this machine, the "
                "same for all of its processes",
            ) from problem


_thread = threading.local()


def _machine() -> Reservations:
    return Reservations(Settings().machine / FOLDER)


def _reason(ticket: Ticket, running: list[Ticket], ahead: int) -> str:
    wanted = "a quiet machine" if ticket.exclusive else "memory"
    holders = ", ".join(other.in_words() for other in running)
    queue = f"{ahead} {'step waits' if ahead == 1 else 'steps wait'} before this one"
    return f"waiting for {wanted}: " + "; ".join([holders] * bool(running) + [queue] * bool(ahead))
