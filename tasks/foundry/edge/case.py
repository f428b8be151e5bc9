"""What a case of the suite is: what is sent, what an application may rely on, what came.

Two sorts of promise are kept apart. What a variant can break, and what the service keeps and must
go on keeping, fail a case. Where foundry-local-sdk 2.2.1 behaves otherwise than an application may
expect, no build can mend it: that is a known gap, and such a case fails only when the service does
something else again, or does not survive it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tasks.core.records import Record
from tasks.foundry.edge.service import Service

_SHOWN = 200


class Result(StrEnum):
    """What came of a case."""

    HELD = "held"
    GAP = "known gap"
    BROKEN = "broken"
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Found:
    """What came of a case, and in words."""

    result: Result
    got: str


@dataclass(frozen=True)
class Case:
    """One edge.

    Attributes:
        name: unique; what is sent.
        promise: what an application may rely on, in words.
        act: sends it.
        by_variant: a variant can break it; else it is the service's own doing.
        gap: what 2.2.1 does instead, if it does, in words.
    """

    name: str
    promise: str
    act: Callable[[Service], Found]
    by_variant: bool = False
    gap: str = ""

    @property
    def expected(self) -> str:
        """Say what must come of it, and who could be to blame if it does not."""
        if self.gap:
            return f"{self.promise} (known gap of 2.2.1 that no build can mend: {self.gap})"
        who = "a variant can break it" if self.by_variant else "Foundry Local keeps it"
        return f"{self.promise} ({who})"


class Row(Record):
    """A case that was put to the service.

    Attributes:
        survived: the plain question was answered as usual afterwards.
    """

    case: str
    expected: str
    got: str
    result: Result
    survived: bool
    seconds: float

    @property
    def passed(self) -> bool:
        """Tell whether the case counts as no failure."""
        return self.result is not Result.BROKEN


def held(got: str) -> Found:
    """Say that the promise was kept."""
    return Found(Result.HELD, shown(got))


def known_gap(got: str) -> Found:
    """Say that the service did what 2.2.1 is known to do instead."""
    return Found(Result.GAP, shown(got))


def broken(got: str) -> Found:
    """Say that neither came."""
    return Found(Result.BROKEN, shown(got))


def not_asked(why: str) -> Found:
    """Say that there was nothing to ask."""
    return Found(Result.NOT_ASKED, shown(why))


def held_if(kept: bool, got: str) -> Found:
    """Say whether a promise without a known gap was kept."""
    return held(got) if kept else broken(got)


def shown(text: str) -> str:
    """Make one readable line of what came."""
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
