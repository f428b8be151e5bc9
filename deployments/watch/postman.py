"""Brings announcements to the server until it has stored them, however long that takes.

Knows nothing of checkpoints; what to do about an announcement that arrived is the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from deployments.watch.announcement import NAMESPACE, Announcement
from deployments.watch.diary import Say
from deployments.watch.server import ServerAway

FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 30.0
LOOK_AGAIN_S = 1.0
# The server stores events every 5 s; an overloaded SQLite takes longer.
STORED_WITHIN_S = 20.0
MOST_POSTS = 3


class Server(Protocol):
    """As much of `PrefectServer` as the postman needs."""

    def listed(self, ids: Sequence[UUID]) -> set[UUID]:
        """Give those that are stored."""

    def post(self, events: Sequence[dict[str, object]]) -> None:
        """Hand events over."""


class Outbox:
    """Announcements on their way, one for each folder: newer news replaces older."""

    def __init__(self) -> None:
        self._waiting: dict[str, Announcement] = {}
        self._filled = threading.Event()
        self._mutex = threading.Lock()

    def put(self, announcement: Announcement) -> None:
        """Hand one over."""
        with self._mutex:
            self._waiting[announcement.sighting.key] = announcement
        self._filled.set()

    def cancel(self, key: str) -> None:
        """Take back what was said of a folder, if it is still here."""
        with self._mutex:
            self._waiting.pop(key, None)

    def done(self, announcement: Announcement) -> None:
        """Remove one that has arrived, unless newer news has taken its place."""
        key = announcement.sighting.key
        with self._mutex:
            if self._waiting.get(key) is announcement:
                del self._waiting[key]

    def waiting(self) -> list[Announcement]:
        """Give what is on its way, oldest first."""
        with self._mutex:
            return list(self._waiting.values())

    def wake(self) -> None:
        """Wake whoever waits."""
        self._filled.set()

    def wait(self, timeout_s: float | None) -> None:
        """Wait until something was put in since the last wait, or until the time is over."""
        self._filled.wait(timeout_s)
        self._filled.clear()


@dataclass
class _Post:
    at: float
    count: int = 1


class Postman:
    """Empties an outbox.

    Args:
        arrived: told of each announcement that the server has stored.
    """

    def __init__(
        self, outbox: Outbox, server: Server, say: Say, arrived: Callable[[Announcement], None]
    ) -> None:
        self._outbox = outbox
        self._server = server
        self._say = say
        self._arrived = arrived
        self._posts: dict[UUID, _Post] = {}
        self._delay_s = FIRST_DELAY_S
        self.away_since: float | None = None
        self.trouble: ServerAway | None = None

    def greet(self, now: float) -> None:
        """Ask the server anything, so that one that is down is told of before it is needed."""
        try:
            self._server.listed([NAMESPACE])
        except ServerAway as problem:
            self._server_is_away(problem, now)

    def go_round(self, now: float) -> float | None:
        """Post what was not posted and see what has arrived.

        Returns:
            Seconds until the next round; None when there is nothing left.
        """
        waiting = self._outbox.waiting()
        if not waiting:
            return None
        try:
            self._deliver(waiting, now)
        except ServerAway as problem:
            return self._server_is_away(problem, now)
        if self.trouble is not None:
            self._say("server", "answers again")
        self.away_since = self.trouble = None
        self._delay_s = FIRST_DELAY_S
        return LOOK_AGAIN_S if self._outbox.waiting() else None

    def _deliver(self, waiting: list[Announcement], now: float) -> None:
        # Asked first: the server forgets in minutes, or when it restarts, which ids it took, and
        # would start a second run; what it has stored it knows for days.
        listed = self._server.listed([one.id for one in waiting])
        to_post = []
        for one in waiting:
            if one.id in listed or self._is_taken(one, now):
                self._close(one)
            elif self._is_due(one, now):
                to_post.append(one)
        if to_post:
            self._server.post([one.as_json() for one in to_post])
        for one in to_post:
            before = self._posts.get(one.id)
            self._posts[one.id] = _Post(now, before.count + 1 if before else 1)

    def _is_due(self, one: Announcement, now: float) -> bool:
        post = self._posts.get(one.id)
        return post is None or now - post.at >= STORED_WITHIN_S

    def _is_taken(self, one: Announcement, now: float) -> bool:
        """Tell whether the server took it often enough to have it, though it does not list it."""
        post = self._posts.get(one.id)
        if post is None or post.count < MOST_POSTS or now - post.at < STORED_WITHIN_S:
            return False
        self._say("server", f"took the event {one.id} and does not list it; not sent again")
        return True

    def _close(self, one: Announcement) -> None:
        self._posts.pop(one.id, None)
        self._outbox.done(one)
        self._arrived(one)

    def _server_is_away(self, problem: ServerAway, now: float) -> float:
        if self.trouble is None or self.trouble.message != problem.message:
            self._say("server", f"{problem} Trying again until it does.")
        self.trouble = problem
        self.away_since = now if self.away_since is None else self.away_since
        self._posts.clear()  # it may have been killed before it stored them
        delay, self._delay_s = self._delay_s, min(2 * self._delay_s, LONGEST_DELAY_S)
        return delay
