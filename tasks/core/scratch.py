"""Throw-away folders beside the home: made for one child, and gone with it or with its owner.

A killed process removes nothing, so the folder's name says whose it is and the next run clears it
away. Knows nothing of what is in them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tasks.core.errors import EnvironmentUnfit, named

PREFIX = "ingot-child-"  # and then the number of the process that owns it


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Give an empty folder among the system's temporary files, removed at the end.

    Raises:
        EnvironmentUnfit: there is no room, or no right to write there.
    """
    with _lack_of_room_named(purpose):
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_scratch(file: Path, text: str, purpose: str) -> None:
    """Write a file into such a folder.

    Raises:
        EnvironmentUnfit: there is no room.
    """
    with _lack_of_room_named(purpose):
        file.write_text(text, encoding="utf-8")


def clear_abandoned() -> int:
    """Remove the folders of processes that are gone; gives how many."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


@contextmanager
def _lack_of_room_named(purpose: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        # Of the tree's kinds the full disk is told apart; whatever else is here, is this machine's.
        known = named(problem)
        kind = type(known) if isinstance(known, EnvironmentUnfit) else EnvironmentUnfit
        raise kind(
            f"{purpose} needs a scratch folder, and none can be written",
            got=str(problem),
            next_step="free disk space, or point TMPDIR at a folder with room",
        ) from problem
