"""Who is champion of a name, since when, from which run, and who came before.

Foundry Local keeps no history, so this is the only one. Knows nothing of what is loaded where.
A name is the same in capitals and in small letters.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import AwareDatetime, ValidationError

from tasks.core.errors import EnvironmentUnfit
from tasks.core.files import write_text_atomically
from tasks.core.records import Digest, Precision, Record, Registration, Variant
from tasks.core.settings import Settings
from tasks.foundry.naming import checked_name

LOCK_FILE = "ledger.lock"


class Champion(Record):
    """One champion of a name.

    Attributes:
        model_id: id in Foundry Local.
        since: when it was proven there, UTC.
    """

    model_id: str
    variant: Digest
    checkpoint: Digest
    precision: Precision
    run_id: str
    since: AwareDatetime
    size_bytes: int


class _Page(Record):
    """The file of one name; newest champion last."""

    name: str
    champions: list[Champion]


def record_champion(
    settings: Settings, name: str, registration: Registration, variant: Variant, *, run_id: str
) -> Champion:
    """Enter a registered variant as the champion of a name.

    One that is champion already keeps its entry, so a repeated run changes nothing.

    Raises:
        EnvironmentUnfit: the ledger's file cannot be read; it is left as it is.
    """
    champion = Champion(
        model_id=registration.model_id,
        variant=variant.digest,
        checkpoint=variant.checkpoint_digest,
        precision=variant.precision,
        run_id=run_id,
        since=datetime.now(UTC),
        size_bytes=variant.size_bytes,
    )
    return append_champion(settings, name, champion)


def append_champion(settings: Settings, name: str, champion: Champion) -> Champion:
    """Enter a champion, unless it is the present one; give the present one's entry."""
    settings.locks.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.locks / LOCK_FILE):
        before = history_of(settings, name)
        if before and before[-1].model_id == champion.model_id:
            return before[-1]
        page = _Page(name=checked_name(name), champions=[*before, champion])
        write_text_atomically(_file_of(settings, name), page.model_dump_json(indent=2) + "\n")
    return champion


def champion_of(settings: Settings, name: str) -> Champion | None:
    """Give the present champion of a name, or None."""
    champions = history_of(settings, name)
    return champions[-1] if champions else None


def champion_before(settings: Settings, name: str) -> Champion | None:
    """Give the champion that the present one replaced, or None.

    Looked for before the present one's first entry: after a rollback from C to B it is A, not C.
    """
    champions = history_of(settings, name)
    ids = [champion.model_id for champion in champions]
    first = ids.index(ids[-1]) if ids else 0
    return champions[first - 1] if first else None


def history_of(settings: Settings, name: str) -> list[Champion]:
    """Give all champions of a name, oldest first; empty when there was none.

    Raises:
        InputError: this cannot be a name.
        EnvironmentUnfit: the file cannot be read as a ledger.
    """
    path = _file_of(settings, name)
    try:
        page = _Page.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (ValidationError, OSError) as problem:
        raise EnvironmentUnfit(
            f"the ledger of {name!r} cannot be read: {path}",
            got=str(problem).splitlines()[0],
            next_step="mend it, or restore it from a backup; Ingot does not write over it",
        ) from problem
    return page.champions


def names(settings: Settings) -> list[str]:
    """Give the names that have or had a champion, sorted."""
    return sorted(path.stem for path in settings.ledger.glob("[!.]*.json"))


def _file_of(settings: Settings, name: str) -> Path:
    return settings.ledger / f"{checked_name(name)}.json"
