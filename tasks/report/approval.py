"""A person's decision about a champion, in words.

Says what was decided; it decides nothing and asks nobody.
"""

from __future__ import annotations

from tasks.core.figures import figure
from tasks.core.records import Approval, ApprovalState, Release

# What became of the variant that the judge chose: as a sentence's end, and beside its verdict.
_SHIPS = ("ships", "ships")
_WITHHELD = {
    ApprovalState.WAITING: ("passes, and waits for a decision", "proposed"),
    ApprovalState.REJECTED: ("passes, and was rejected", "rejected"),
    ApprovalState.UNANSWERED: ("passes, and nobody decided", "not decided"),
}


def is_withheld(release: Release) -> bool:
    """Tell whether a person, not a gate, keeps the chosen variant from shipping."""
    return release.approval is not None and not release.approval.is_granted


def fate_of_chosen(release: Release, *, short: bool = False) -> str:
    """Say what becomes of the variant that the judge chose, such as `ships` or `was rejected`."""
    approval = release.approval
    fates = _WITHHELD.get(approval.state, _SHIPS) if approval else _SHIPS
    return fates[1] if short else fates[0]


def approval_in_words(release: Release) -> str:
    """Say what was decided, by whom, and what follows from it; empty where nobody was asked."""
    approval = release.approval
    if approval is None:
        return ""
    by = f" by {approval.by}" if approval.by else ""
    said = f": {approval.comment.rstrip('.')}" if approval.comment else ""
    before = approval.instead_of
    stays = f"{before} stays champion" if before else "there is still no champion"
    return {
        ApprovalState.WAITING: f"Somebody has to decide whether it ships; until then {stays}.",
        ApprovalState.PROMOTED: f"Promoted{by}{said}.",
        ApprovalState.REJECTED: f"Rejected{by}{said}. Nothing was registered; {stays}.",
        ApprovalState.UNANSWERED: f"Nobody decided within {_waited(approval)}. Nothing was "
        f"registered; {stays}.",
    }[approval.state]


def reason_of(release: Release) -> str:
    """Give the verdict in a sentence; a person's veto comes before what the gates said."""
    reason = release.judgement.reason
    return (
        f"{approval_in_words(release)} The gates said: {reason}" if is_withheld(release) else reason
    )


def _waited(approval: Approval) -> str:
    end = approval.answered_at or approval.asked_at
    minutes = (end - approval.asked_at).total_seconds() / 60
    return (
        f"{figure(round(minutes / 60, 1))} h"
        if minutes >= 60
        else f"{figure(round(minutes, 1))} min"
    )
