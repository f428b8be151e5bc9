"""Asking a person before the champion is changed: who is asked is the caller's choice.

A deployment asks in Prefect's UI, the command at its terminal. Nothing is registered here, and
the evidence is there before anybody is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import NamedTuple

from tasks.core.progress import step
from tasks.core.records import Approval, ApprovalState, Release
from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion, champion_of

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a person said; `None` stands for one who said nothing."""

    promote: bool
    comment: str = ""
    by: str = ""


# Gets the release with its proposal, and the hours to wait.
Asker = Callable[[Release, float], Answer | None]


def _in_prefect(release: Release, hours: float) -> Answer | None:
    from flows.approval_run import ask_in_prefect

    return ask_in_prefect(release, hours)


_asker: ContextVar[Asker] = ContextVar("asker", default=_in_prefect)


@contextmanager
def asking(asker: Asker) -> Iterator[None]:
    """Have `asker` put the questions of the releases in this block."""
    token = _asker.set(asker)
    try:
        yield
    finally:
        _asker.reset(token)


def ask_first(found: Release, hours: float, publish: Callable[[Release], Release]) -> Release:
    """Ask whether the variant that passed may become champion; gives the release with the answer.

    Nobody is asked where nothing would change: no variant passed, or the champion is that variant.
    Who promoted while somebody else changed the champion is asked again, about the new one.

    Args:
        found: the release, judged and not registered.
        hours: to wait; without an answer the champion stays.
        publish: writes the evidence, so that it can be read by who decides.
    """
    while True:
        champion = champion_of(Settings(), found.name)
        if not _would_change(found, champion):
            return found
        waiting = Approval(
            state=ApprovalState.WAITING,
            instead_of=champion.model_id if champion else None,
            asked_at=datetime.now(UTC),
        )
        found = publish(found.model_copy(update={"approval": waiting}))
        with step("wait for approval") as say:
            say(f"{found.name}: somebody has to promote or reject")
            approval = _approval(waiting, _asker.get()(found, hours))
            say(f"{approval.state.value}{f': {approval.comment}' if approval.comment else ''}")
        if not approval.is_granted or champion_of(Settings(), found.name) == champion:
            return found.model_copy(update={"approval": approval})
        log.warning("the champion of %s changed in the meantime: asked again", found.name)


def _would_change(found: Release, champion: Champion | None) -> bool:
    chosen = found.judgement.champion
    return chosen is not None and (champion is None or champion.variant != chosen)


def _approval(waiting: Approval, answer: Answer | None) -> Approval:
    if answer is None:
        state = ApprovalState.UNANSWERED
    else:
        state = ApprovalState.PROMOTED if answer.promote else ApprovalState.REJECTED
    return waiting.model_copy(
        update={
            "state": state,
            "comment": answer.comment if answer else "",
            "by": answer.by if answer else "",
            "answered_at": datetime.now(UTC),
        }
    )
