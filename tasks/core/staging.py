"""Folders to build in, each of one living process; what the dead leave behind is cleared away.

Whether the owner lives is the kernel's word (`Claims`): in a container process ids and host names
come again, or never again, and would keep gigabytes for ever or remove what is being built. Knows
nothing of what is built.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.files import sync_folder, sync_tree
from tasks.core.locks import Claims

PARTIAL = ".partial"
_REPLACED = "replaced-"


class Staging:
    """Folders named `*.partial` in a folder that may hold finished ones too.

    Args:
        root: made when it is needed.
        locks: folder of the kernel locks; one folder below it says who owns what.
    """

    def __init__(self, root: Path, locks: Path) -> None:
        self._root = root
        self._claims = Claims(locks / f"in-{root.name}")

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give an empty folder that only this user may enter; it is gone at the end."""
        name = uuid.uuid4().hex[:12]
        with self._claims.mutex():
            lock = self._claims.take(name)
        folder = self._root / f"{name}{PARTIAL}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._claims.give_back(name, lock)

    def publish(self, staged: Path, target: Path) -> None:
        """Rename what was made in such a folder to its place in the root, over what is there.

        Raises:
            OSError: the disk is full or read-only; what was there is there again then.
        """
        sync_tree(staged)
        old = self._root / f"{_REPLACED}{target.name}{PARTIAL}"
        with self._claims.mutex():  # `sweep` must not see the moment between the two renames
            self._settle(old)
            if target.exists():
                target.rename(old)
            try:
                staged.rename(target)
                sync_folder(self._root)
            finally:
                self._settle(old)

    def sweep(self) -> int:
        """Remove what dead processes left, and put back what they were replacing.

        Returns:
            How many folders.
        """
        partial = [entry for entry in self._root.glob(f"*{PARTIAL}") if entry.is_dir()]
        if not partial:
            return 0
        with self._claims.mutex():
            orphans = [entry for entry in partial if not self._is_claimed(entry)]
            for entry in orphans:
                if entry.name.startswith(_REPLACED):
                    self._settle(entry)
                else:
                    shutil.rmtree(entry, ignore_errors=True)
            for name in self._claims.names():
                if not self._claims.is_held(name):
                    self._claims.forget(name)
        return len(orphans)

    def _is_claimed(self, folder: Path) -> bool:
        return self._claims.is_held(folder.name.removesuffix(PARTIAL))

    def _settle(self, old: Path) -> None:
        """Remove a replaced folder, or put it back if nothing took its place."""
        if not old.exists():
            return
        target = self._root / old.name.removeprefix(_REPLACED).removesuffix(PARTIAL)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
