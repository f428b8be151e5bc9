"""What `ingot list`, `show` and `rollback` do: read the ledger, and turn it back one page."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.core.errors import InputError
from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion, champion_of, history_of, names
from tasks.foundry.roll_back import roll_back
from tasks.report.markup import Rows


def champions() -> Rows:
    """One row a name: its champion."""
    settings = Settings()
    rows = []
    for name in names(settings):
        champion = champion_of(settings, name)
        if champion is not None:
            rows.append({"name": name, **_row(champion)})
    return rows


def history(name: str) -> Rows:
    """One row a champion of this name, the present one first.

    Raises:
        InputError: nothing is registered under that name.
    """
    settings = Settings()
    entries = history_of(settings, name)
    if not entries:
        known = ", ".join(names(settings)) or "nothing yet"
        raise InputError(f"nothing is registered as {name!r}", expected=f"one of: {known}")
    return [_row(entry) for entry in reversed(entries)]


def go_back(name: str) -> Champion:
    """Make the champion before the present one champion again, proven first.

    Raises:
        InputError: there is none before it.
    """
    now = datetime.now(UTC)
    return roll_back(
        name, run_id=f"{now:%Y%m%dT%H%M%SZ}-{name.lower()}-rollback", settings=Settings()
    )


def _row(champion: Champion) -> dict[str, str]:
    return {
        "champion": champion.model_id,
        "since": f"{champion.since:%Y-%m-%d %H:%M} UTC",
        "size MB": f"{champion.size_bytes / 1e6:,.2f}",
        "checkpoint": champion.checkpoint[:12],
        "variant": champion.variant[:12],
        "run": champion.run_id,
        "report": str(Settings().runs / champion.run_id / "report.md"),
    }
