"""Go back to the champion before the present one: proven first, then made what its alias means.

Files stay where they are; only index entries go. Why one goes back is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.child import run_child
from tasks.core.errors import InputError
from tasks.core.records import Record
from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion, append_champion, champion_before, champion_of
from tasks.foundry.naming import checked_name

DEADLINE_S = 3600.0


class RollBackRequest(Record):
    """What the child is asked for: ids in the production index."""

    home: Path
    present: str
    target: str


class RolledBack(Record):
    """Ids that were taken out of the index."""

    unregistered: list[str]


def roll_back(
    name: str,
    *,
    run_id: str,
    settings: Settings,
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> Champion:
    """Make the champion before the present one champion again, and give its new ledger entry.

    Args:
        name: name of the release, in capitals or not.
        run_id: of the run that goes back; enters the ledger.
        settings: where index and ledger are.
        say: gets one line of progress.

    Raises:
        InputError: there is no champion before the present one, or it is not registered any more.
        ToolFailed: it does not answer as ONNX Runtime GenAI does; nothing was changed then.
    """
    present, target = champion_of(settings, name), champion_before(settings, name)
    if present is None or target is None:
        raise InputError(
            f"{name!r} has no champion to go back to",
            got="no champion at all" if present is None else f"only {present.model_id}",
            next_step="run `ingot list`",
        )
    request = RollBackRequest(home=settings.home, present=present.model_id, target=target.model_id)
    done, _ = run_child(
        "tasks.foundry.roll_back_child:roll_back",
        request,
        RolledBack,
        log=settings.logs / f"foundry-roll-back-{checked_name(name)}.log",
        deadline_s=DEADLINE_S,
        on_progress=say,
    )
    say(f"{target.model_id} is champion again; unregistered: {', '.join(done.unregistered)}")
    # `since` of the first entry would say that it never was away.
    again = target.model_copy(update={"run_id": run_id, "since": datetime.now(UTC)})
    return append_champion(settings, name, again)
