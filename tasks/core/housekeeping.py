"""Clearing away what killed runs left behind, before a new one begins.

Only what nobody can still need, and never by the clock, which may jump: what is being made belongs
to a living process or to nobody. Knows nothing of what was being made.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from tasks.core.errors import DoesNotFit, EnvironmentUnfit, IngotError, named
from tasks.core.files import is_left_over
from tasks.core.locks import Claims
from tasks.core.settings import Settings
from tasks.core.staging import Staging
from tasks.core.store import Store

log = logging.getLogger(__name__)

MOST_LOGS, MOST_LOG_BYTES = 1000, 512 * 1024**2

_NAMELESS = re.compile(r"[0-9a-f]{32}")
_RUNNING = "running"


def require_writable(settings: Settings) -> None:
    """Refuse a home in which nothing can be kept, by writing into each folder that is there.

    A home that is not there yet is not made.

    Raises:
        EnvironmentUnfit: a folder is read-only, somebody else's, or no folder.
        DoesNotFit: the disk is full.
    """
    home = next(place for place in (settings.home, *settings.home.parents) if place.exists())
    folders = [home, *(place for place in _folders(settings) if place.exists())]
    for folder in folders:
        try:
            _try_to_write(folder)
        except OSError as problem:
            full = isinstance(named(problem), DoesNotFit)
            raise (DoesNotFit if full else EnvironmentUnfit)(
                f"nothing can be written to {folder}",
                expected="a folder that this user may write to, with room in it",
                got=f"{type(problem).__name__}: {problem.strerror or problem}",
                next_step="free disk space" if full else "mend it, or set INGOT_HOME elsewhere",
            ) from problem


def clear_leftovers(settings: Settings) -> int:
    """Remove leftovers of earlier runs; gives how many.

    What cannot be removed stays, and is no reason not to run.
    """
    sweeps: list[Callable[[], int]] = [
        Store(settings.store).sweep,
        Staging(settings.foundry_staging, settings.locks).sweep,
        Staging(settings.runs, settings.locks).sweep,
        lambda: _remove(_half_written(settings.home)),
        lambda: _remove(_unread_failures(settings)),
        lambda: _remove(_oldest_logs(settings.logs)),
    ]
    removed = sum(map(_tried, sweeps))
    if removed:
        log.info("removed %d leftovers of earlier runs", removed)
    return removed


def _folders(settings: Settings) -> list[Path]:
    return [
        settings.store,
        settings.records,
        settings.locks,
        settings.foundry,
        settings.foundry_staging,
        settings.runs,
        settings.ledger,
        settings.logs,
    ]


def _try_to_write(folder: Path) -> None:
    # Some file systems take a name and no bytes when they are full.
    probe = folder / f".writable-{uuid.uuid4().hex[:12]}"
    try:
        probe.write_bytes(bytes(4096))
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _tried(sweep: Callable[[], int]) -> int:
    try:
        return sweep()
    except (OSError, IngotError) as problem:
        log.warning("leftovers of earlier runs stay: %s", problem)
        return 0


def _remove(files: Iterator[Path]) -> int:
    count = 0
    for file in files:
        file.unlink(missing_ok=True)
        count += 1
    return count


def _half_written(home: Path) -> Iterator[Path]:
    for pattern in (".*", "*/.*"):
        yield from (file for file in home.glob(pattern) if is_left_over(file))


def _unread_failures(settings: Settings) -> Iterator[Path]:
    """Give the failures that Prefect wrote under random names, when no other run may read them."""
    if not settings.records.is_dir() or not _is_only_run(settings):
        return
    yield from (file for file in settings.records.iterdir() if _NAMELESS.fullmatch(file.name))


def _oldest_logs(logs: Path) -> Iterator[Path]:
    """Give the logs that are too many; the clock has a say in their order only."""
    if not logs.is_dir():
        return
    found = [(file.stat(), file) for file in logs.rglob("*") if file.is_file()]
    found.sort(key=lambda pair: pair[0].st_mtime_ns, reverse=True)
    total = 0
    for place, (state, file) in enumerate(found):
        total += state.st_size
        # The newest may be the one that is being written.
        if place and (place >= MOST_LOGS or total > MOST_LOG_BYTES):
            yield file


_here: dict[Path, tuple[str, FileLock]] = {}  # this process's mark in each home, until it ends
_mutex = threading.Lock()


def _is_only_run(settings: Settings) -> bool:
    """Tell whether no other process runs in this home, and mark that this one does from now on."""
    claims = Claims(settings.locks / _RUNNING)
    with _mutex, claims.mutex():
        name, _ = _here.get(settings.home, ("", None))
        if not claims.is_held(name):
            name = uuid.uuid4().hex[:12]
            _here[settings.home] = name, claims.take(name)
        others = claims.names() - {name}
        for dead in [other for other in others if not claims.is_held(other)]:
            claims.forget(dead)
            others.discard(dead)
    return not others
