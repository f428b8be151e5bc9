"""What `ingot list`, `show` and `rollback` do: read the ledger, and turn it back one page."""

from __future__ import annotations

from typing import Any

from tasks.core.errors import InputError
from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion, champion_before, champion_of, history_of, names
from tasks.foundry.roll_back import roll_back
from tasks.report.html.page_records import PAGE
from tasks.report.markup import Rows


def champions() -> list[dict[str, Any]]:
    """One row a name: its champion."""
    settings = Settings()
    rows = []
    for name in names(settings):
        champion = champion_of(settings, name)
        if champion is not None:
            rows.append({"name": name, **_row(champion)})
    return rows


def history(name: str) -> list[dict[str, Any]]:
    """One row a champion of this name, the present one first.

    Raises:
        InputError: nothing is registered under that name.
    """
    settings = Settings()
    entries = history_of(settings, name)
    if not entries:
        known = ", ".join(names(settings)) or "nothing yet"
        raise InputError(
            f"nothing is registered as {name!r}",
            expected=f"one of: {known}",
            next_step=f"a release that did not ship has its report below {settings.runs}",
        )
    return [_row(entry) for entry in reversed(entries)]


def may_go_back(name: str, to: str | None = None) -> tuple[Champion, Champion]:
    """Give the present champion of a name, and the one that a rollback brings back.

    Args:
        name: name of the release.
        to: model id that must come back; None for whichever was champion before.

    Raises:
        InputError: nothing is registered under that name, there is no champion before the present
            one, or it is another than `to`.
    """
    history(name)  # refuses a name that has no champion
    settings = Settings()
    present, before = champion_of(settings, name), champion_before(settings, name)
    assert present is not None
    if before is None:
        raise InputError(
            f"{name!r} has no champion to go back to",
            got=f"only {present.model_id}",
            next_step=f"run `ingot show {name}`",
        )
    if to not in (None, before.model_id):
        raise InputError(
            f"a rollback of {name!r} does not bring back {to}",
            expected=f"{before.model_id}, the champion before {present.model_id}",
            next_step=f"run `ingot show {name}`; further back, roll back again",
        )
    return present, before


def go_back(name: str) -> Champion:
    """Make the champion before the present one champion again, proven first.

    Raises:
        InputError: there is none before it.
    """
    settings = Settings()
    before = champion_before(settings, name)
    # Its evidence stays the run that examined it.
    return roll_back(name, run_id=before.run_id if before else "", settings=settings)


def _row(champion: Champion) -> dict[str, Any]:
    return {
        "champion": champion.model_id,
        "since": f"{champion.since:%Y-%m-%dT%H:%M:%SZ}",
        "precision": champion.precision.value,
        "size_bytes": champion.size_bytes,
        "checkpoint": champion.checkpoint,
        "variant": champion.variant,
        "run": champion.run_id,
        "report": str(Settings().runs / champion.run_id / PAGE),
    }


def as_table(rows: list[dict[str, Any]]) -> Rows:
    """Give what a terminal has room for."""
    return [
        {
            "champion": row["champion"],
            "size MB": f"{row['size_bytes'] / 1e6:,.2f}",
            "since": row["since"],
        }
        for row in rows
    ]
