"""The watcher's log: one line an event on stderr, for people or as JSON.

Knows nothing of what happened; a line that cannot be written stops nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Protocol


class Say(Protocol):
    """Takes one event: its kind in a word, the words, and its facts for machines."""

    def __call__(self, kind: str, text: str, **facts: object) -> None:
        """Write it down."""


class Diary:
    """Writes lines to stderr.

    Args:
        as_json: one JSON object a line instead of plain text.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._mutex = threading.Lock()

    def __call__(self, kind: str, text: str, **facts: object) -> None:
        """Write one event."""
        now = datetime.now(UTC)
        if self._as_json:
            line = json.dumps({"at": now.isoformat(), "event": kind, "text": text, **facts})
        else:
            line = f"{now:%Y-%m-%d %H:%M:%S}Z {kind} {text}".rstrip()
        # Whoever read the log may be gone; the watch goes on.
        with self._mutex, contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


class DiaryHandler(logging.Handler):
    """Brings the steps' own warnings into the diary."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._say("note", record.getMessage())
