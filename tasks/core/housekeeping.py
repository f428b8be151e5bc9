"""Clearing away what killed runs left behind, before a new one begins.

Only what nobody can still need: staging folders of dead processes, and the records that Prefect
writes for failures under random names. Knows nothing of what was being made.
"""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

from tasks.core.settings import Settings
from tasks.core.store import Store

log = logging.getLogger(__name__)

_NAMELESS = re.compile(r"[0-9a-f]{32}")
_OLD_S = 3600.0  # a run that is still going may read the failure that it wrote


def clear_leftovers(settings: Settings) -> int:
    """Remove leftovers of earlier runs; gives how many."""
    removed = Store(settings.store).sweep()
    for record in settings.records.glob("*"):
        if _NAMELESS.fullmatch(record.name) and _is_old(record):
            record.unlink(missing_ok=True)
            removed += 1
    if removed:
        log.info("removed %d leftovers of earlier runs", removed)
    return removed


def _is_old(record: Path) -> bool:
    try:
        return time.time() - record.stat().st_mtime > _OLD_S
    except FileNotFoundError:
        return False
