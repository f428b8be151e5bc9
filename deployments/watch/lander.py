"""The rules of landing: when a folder is looked into, and what is said of it, how often.

Decided from sightings and a monotonic clock alone: times of files may lie in the past or in the
future, and say only whether something changed. Reads no file and talks to no server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deployments.watch.announcement import LANDED, Announcement, breakage_of, landing_of
from deployments.watch.diary import Say
from deployments.watch.journal import Journal
from deployments.watch.postman import Outbox
from deployments.watch.sighting import Haste, Landed, Place, Sighting
from tasks.checkpoint.admit import choose_name
from tasks.core.errors import CheckpointIncomplete, IngotError, InputError, ResourceBusy, named

GIVE_UP_S = 600.0
# How long a complete folder is left alone after a rename: nothing of it can be missing any more.
RENAMED_QUIET_S = 1.0
RETRY_S = 30.0


class State(StrEnum):
    """How far a folder has come."""

    WAITING = "waiting for quiet"
    EXAMINING = "being read"
    INCOMPLETE = "quiet, and not whole"
    ANNOUNCING = "on its way to the server"
    SETTLED = "announced, or known"


@dataclass
class _Candidate:
    """One folder.

    Attributes:
        since: when it was last seen to change.
        for_later: it has changed since it was first seen, or could not be read; a watch that ends
            does not wait for it.
        twin: what it is, where an equal folder is on its way to the server for it.
    """

    place: Place
    sighting: Sighting
    since: float
    state: State = State.WAITING
    for_later: bool = False
    not_before: float = 0.0
    reason: str = ""
    announcement: Announcement | None = None
    twin: tuple[str | None, str, bool] | None = None


class Lander:
    """The folders of all places.

    Args:
        name: what every release is called; None to call each after its folder.
        again: announce what is there once more, though it was announced before.

    Attributes:
        trouble: what last kept a folder from being read; None if nothing did.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        outbox: Outbox,
        say: Say,
        name: str | None = None,
        give_up_s: float = GIVE_UP_S,
        again: bool = False,
    ) -> None:
        self._journal = journal
        self._outbox = outbox
        self._say = say
        self._name = name
        self._give_up_s = give_up_s
        self._again = again
        self._told_again: set[tuple[str, str, bool]] = set()
        self._candidates: dict[str, _Candidate] = {}
        self.trouble: IngotError | None = None

    def saw(self, place: Place, sightings: Sequence[Sighting], now: float) -> None:
        """Take in what a place shows."""
        keys = {sighting.key for sighting in sightings}
        for key, one in list(self._candidates.items()):
            if one.place is place and key not in keys:
                self._forget(key)
        for sighting in sightings:
            known = self._candidates.get(sighting.key)
            if known is None or known.sighting.signature != sighting.signature:
                self._begin(place, sighting, now, is_new=known is None)
            else:
                known.sighting = sighting

    def due(self, now: float) -> list[tuple[Place, Sighting]]:
        """Give the folders that are to be read now; each is then waited for."""
        found = []
        for one in self._candidates.values():
            if one.state is State.WAITING and now >= self._due_at(one):
                one.state = State.EXAMINING
                found.append((one.place, one.sighting))
            elif one.state is State.INCOMPLETE and now >= one.since + self._give_up_s:
                self._report(
                    one, f"unchanged for {self._give_up_s:,.0f} s and not whole: {one.reason}"
                )
        return found

    def examined(
        self, sighting: Sighting, outcome: Landed | IngotError | OSError, now: float
    ) -> bool:
        """Take in what reading a folder gave; tells whether it changed, so must be looked at."""
        one = self._candidates.get(sighting.key)
        if one is None or one.sighting.signature != sighting.signature:
            return False  # it is gone, or has changed and begins anew
        if isinstance(outcome, Landed):
            self._land(one, outcome)
        elif isinstance(outcome, CheckpointIncomplete):
            self._hold(one, str(outcome), State.INCOMPLETE)
        elif isinstance(outcome, ResourceBusy):
            one.state, one.since, one.for_later = State.WAITING, now, True
            return True
        elif isinstance(outcome, InputError):
            self._report(one, str(outcome))
        else:
            self.trouble = named(outcome)
            one.not_before, one.for_later = now + RETRY_S, True
            self._hold(one, f"{self.trouble} Trying again.", State.WAITING)
        return False

    def arrived(self, announcement: Announcement) -> None:
        """Take down that the server has stored an announcement."""
        self._journal.enter(announcement)
        one = self._candidates.get(announcement.sighting.key)
        if one is not None and one.announcement is announcement:
            one.state, one.announcement = State.SETTLED, None
        if announcement.event == LANDED:
            self._say("announced", f"{announcement.name} as event {announcement.id}")

    def is_decided(self) -> bool:
        """Tell whether nothing can be decided by waiting a while, all announcements stored."""
        open_states = (State.WAITING, State.EXAMINING, State.ANNOUNCING)
        undecided = [one for one in self._candidates.values() if one.state in open_states]
        return all(one.for_later and one.state is State.WAITING for one in undecided)

    def undecided(self) -> list[Path]:
        """Give the folders that are left for later."""
        return [
            Path(one.sighting.key)
            for one in self._candidates.values()
            if one.state not in (State.SETTLED, State.ANNOUNCING)
        ]

    def _begin(self, place: Place, sighting: Sighting, now: float, *, is_new: bool) -> None:
        if not is_new:
            self._forget(sighting.key, is_gone=False)
        one = _Candidate(place, sighting, since=now, for_later=not is_new)
        self._candidates[sighting.key] = one
        if self._journal.knows(sighting) and not self._again:
            one.state = State.SETTLED
        elif is_new:
            self._say("seen", sighting.key)

    def _forget(self, key: str, *, is_gone: bool = True) -> None:
        one = self._candidates.pop(key)
        if is_gone and one.state is not State.SETTLED:
            self._say("gone", key)
        if one.announcement is None:
            return
        # What was going to be announced is no longer there; an equal folder may be.
        self._outbox.cancel(key)
        for other in self._candidates.values():
            if other.twin == one.announcement.what:
                other.state, other.twin = State.WAITING, None

    def _due_at(self, one: _Candidate) -> float:
        quiet_s = one.place.quiet_s
        wait_s = {
            Haste.NONE: quiet_s,
            Haste.RENAMED: min(quiet_s, RENAMED_QUIET_S),
            Haste.READY: 0.0,
        }[one.sighting.haste]
        return max(one.since + wait_s, one.not_before)

    def _land(self, one: _Candidate, landed: Landed) -> None:
        what = landed.what
        on_its_way = any(
            other.announcement.what == what
            for other in self._candidates.values()
            if other.announcement is not None
        )
        before = self._journal.announced(*what)
        is_again = self._again and what not in self._told_again
        if on_its_way:
            one.state, one.twin = State.SETTLED, what
            self._say("known", f"{landed.name} {landed.path}: the same is being announced")
        elif before is not None and not is_again:
            one.state = State.SETTLED
            self._journal.enter_known(one.sighting, landed)
            self._say(
                "known",
                f"{landed.name} {landed.path}: the same was announced from {before.path} at "
                f"{before.at:%Y-%m-%d %H:%M:%S}Z; --again announces it once more",
            )
        else:
            self._told_again.add(what)
            self._say_landed(landed)
            self._announce(one, landing_of(landed, one.sighting, again=is_again))

    def _say_landed(self, landed: Landed) -> None:
        lacking = (
            ""
            if landed.has_questions
            else "; its release will be refused: no questions.jsonl. Put one into the folder or "
            "beside it, and it is announced again"
        )
        self._say(
            "landed",
            f"{landed.name} {landed.path} ({_size(landed.size_bytes)}, digest "
            f"{landed.digest[:12]}){lacking}",
            path=str(landed.path),
            name=landed.name,
            digest=landed.digest,
        )

    def _report(self, one: _Candidate, reason: str) -> None:
        """Say that a folder is broken; once, for it is not looked into again until it changes."""
        self._say("broken", f"{one.sighting.key}: {reason}", path=one.sighting.key, reason=reason)
        name = self._name_of(one.sighting)
        self._announce(one, breakage_of(one.sighting, name, reason, again=self._again))

    def _announce(self, one: _Candidate, announcement: Announcement) -> None:
        one.state, one.announcement = State.ANNOUNCING, announcement
        self._outbox.put(announcement)

    def _hold(self, one: _Candidate, reason: str, state: State) -> None:
        if reason != one.reason:
            self._say("waiting", f"{one.sighting.key}: {reason}", path=one.sighting.key)
        one.state, one.reason = state, reason

    def _name_of(self, sighting: Sighting) -> str:
        try:
            return choose_name(self._name, Path(sighting.named_after))
        except InputError:  # which may be what is wrong
            return self._name or sighting.named_after


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:,.2f} MB"
