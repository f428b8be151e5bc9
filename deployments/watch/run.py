"""The watch itself: threads that look, read and post, and one that decides.

All that is slow or may hang (a share, a bucket, a server, hashing) is in threads of its own, which
die with the process; the deciding one takes their reports from one queue, so that nothing of it
needs a lock. Knows no rule of landing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType

from deployments.watch.announcement import Announcement
from deployments.watch.diary import Say
from deployments.watch.journal import Journal
from deployments.watch.lander import Lander
from deployments.watch.local import LocalPlace
from deployments.watch.notices import tell_of_changes
from deployments.watch.postman import Outbox, Postman, Server
from deployments.watch.sighting import Landed, Place, Sighting
from tasks.core.errors import IngotError, TransientFault, named

TICK_S = 0.25
# Between two looks, however fast changes come in.
SHORTEST_PAUSE_S = 0.5
# How long a watch that ends waits for its server, in all.
PATIENCE_S = 60.0
# How long threads get to end by themselves.
FAREWELL_S = 1.0
STOPPED, INTERRUPTED = 0, 130

Report = Callable[[float], None]


class Watch:
    """One run of the watcher.

    Args:
        once: leave when everything that is there now is decided.
        poll: look for changes instead of being told of them by the system.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        lander: Lander,
        journal: Journal,
        outbox: Outbox,
        server: Server,
        say: Say,
        once: bool = False,
        poll: bool = False,
    ) -> None:
        self._places = places
        self._lander = lander
        self._journal = journal
        self._outbox = outbox
        self._say = say
        self._once = once
        self._poll = poll
        self._reports: SimpleQueue[Report] = SimpleQueue()
        self._postman = Postman(outbox, server, say, self._tell_arrived)
        self._stop = threading.Event()
        self._exit_code: int | None = None
        self._looked_at: set[str] = set()
        self._lost: dict[str, IngotError] = {}
        self._to_read: dict[str, SimpleQueue[Sighting | None]] = {
            place.address: SimpleQueue() for place in places
        }
        self._look_now = {place.address: threading.Event() for place in places}
        self._journal_fault = ""
        self._threads: list[threading.Thread] = []

    def run(self) -> int:
        """Watch until told to stop; gives the exit code.

        Raises:
            IngotError: what kept a watch that ends from deciding everything.
        """
        with self._signals():
            self._start_threads()
            try:
                while self._exit_code is None:
                    self._take_reports()
                    self._decide(time.monotonic())
            finally:
                self._end_threads()
        return self._exit_code

    @property
    def stragglers(self) -> list[threading.Thread]:
        """Threads that went on when the watch had ended, in a call that takes its time."""
        return [thread for thread in self._threads if thread.is_alive()]

    def _decide(self, now: float) -> None:
        for place, sighting in self._lander.due(now):
            self._to_read[place.address].put(sighting)
        self._save_journal()
        if self._once and self._exit_code is None:
            self._leave_when_done(now)

    def _take_reports(self) -> None:
        with contextlib.suppress(Empty):
            report = self._reports.get(timeout=TICK_S)
            while True:
                report(time.monotonic())
                report = self._reports.get_nowait()

    def _leave_when_done(self, now: float) -> None:
        away_since = self._postman.away_since
        if self._postman.trouble and away_since and now - away_since > PATIENCE_S:
            raise self._postman.trouble
        has_looked = self._looked_at == {place.address for place in self._places}
        if not has_looked or not self._lander.is_decided() or self._outbox.waiting():
            return
        if not self._journal.is_saved:
            raise TransientFault(f"the journal cannot be written: {self._journal_fault}")
        for folder in self._lander.undecided():
            self._say("later", f"{folder}: left for the next time")
        for problem in (*self._lost.values(), self._lander.trouble):
            if problem is not None:
                raise problem
        self._exit_code = STOPPED

    def _save_journal(self) -> None:
        if self._journal.is_saved:
            return
        try:
            self._journal.save()
        except OSError as problem:
            if str(problem) != self._journal_fault:
                self._say("journal", f"cannot be written: {named(problem)} Trying again.")
            self._journal_fault = str(problem)
            return
        if self._journal_fault:
            self._say("journal", "is written again")
        self._journal_fault = ""

    # ------------------------------------------------------------ threads

    def _start_threads(self) -> None:
        works: list[Callable[[], None]] = [self._post]
        for place in self._places:
            works += [partial(self._look, place), partial(self._read, place)]
            if isinstance(place, LocalPlace):
                look_now = self._look_now[place.address]
                works.append(
                    partial(
                        tell_of_changes, place.root, look_now, self._stop, self._say, self._poll
                    )
                )
        for work in works:
            # Nothing that they do has to be finished, and some of it may hang for minutes.
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()

    def _end_threads(self) -> None:
        self._stop.set()
        self._outbox.wake()
        for look_now in self._look_now.values():
            look_now.set()
        for queue in self._to_read.values():
            queue.put(None)
        ends_at = time.monotonic() + FAREWELL_S
        for thread in self._threads:
            thread.join(max(0, ends_at - time.monotonic()))

    def _look(self, place: Place) -> None:
        look_now = self._look_now[place.address]
        while not self._stop.is_set():
            look_now.clear()
            try:
                sightings = place.look()
            except Exception as problem:  # noqa: BLE001  (file systems of fsspec raise anything)
                self._reports.put(partial(self._lose, place, _named(problem)))
            else:
                self._reports.put(partial(self._see, place, sightings))
            look_now.wait(place.every_s)
            self._stop.wait(SHORTEST_PAUSE_S)

    def _read(self, place: Place) -> None:
        while (sighting := self._to_read[place.address].get()) is not None:
            outcome: Landed | IngotError | OSError
            try:
                outcome = place.take_in(sighting)
            except (IngotError, OSError) as problem:
                outcome = problem
            except Exception as problem:  # noqa: BLE001  (file systems of fsspec raise anything)
                outcome = _named(problem)
            self._reports.put(partial(self._learn, place, sighting, outcome))

    def _post(self) -> None:
        self._postman.greet(time.monotonic())
        while not self._stop.is_set():
            self._outbox.wait(self._postman.go_round(time.monotonic()))

    # ------------------------------------------------------------ reports, in the deciding thread

    def _see(self, place: Place, sightings: Sequence[Sighting], now: float) -> None:
        self._looked_at.add(place.address)
        if self._lost.pop(place.address, None):
            self._say("place", f"{place.address} is there again")
        self._lander.saw(place, sightings, now)

    def _lose(self, place: Place, problem: IngotError, _now: float) -> None:
        self._looked_at.add(place.address)
        if place.address not in self._lost:
            self._say("place", f"{place.address} cannot be read: {problem} Trying again.")
        self._lost[place.address] = problem

    def _learn(
        self, place: Place, sighting: Sighting, outcome: Landed | IngotError | OSError, now: float
    ) -> None:
        if self._lander.examined(sighting, outcome, now):
            self._look_now[place.address].set()

    def _tell_arrived(self, announcement: Announcement) -> None:
        self._reports.put(lambda _now: self._lander.arrived(announcement))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """End on SIGTERM and SIGINT; tests run this outside the main thread, without them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _frame: FrameType | None) -> None:
            self._exit_code = INTERRUPTED if number == signal.SIGINT else STOPPED
            self._reports.put(lambda _now: None)  # wakes the deciding thread

        before = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


def _named(problem: Exception) -> IngotError:
    """Find an error's name; one that is none of ours and not the system's may be gone later."""
    if isinstance(problem, IngotError | OSError | MemoryError):
        return named(problem)
    return TransientFault(f"{type(problem).__name__}: {problem}")
