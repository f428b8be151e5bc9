"""Model folders of the production index on disk: placed complete or not at all, never changed.

`<index>/custom/<alias>/v<N>`: hard links to the store's read-only files, or copies on another
disk. Knows nothing of Foundry Local.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from tasks.core.files import sync_file, sync_folder
from tasks.core.store import MANIFEST

PARTIAL = ".partial"
_VERSION = re.compile(r"v(0|[1-9]\d*)")
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class ModelFolders:
    """The folders of one alias. All calls are made under the registration lock.

    Args:
        index: the folder of the model index.
        alias: `<name>-<precision>-cpu`.
    """

    def __init__(self, index: Path, alias: str) -> None:
        self._root = index / "custom" / alias

    def path(self, version: int) -> Path:
        """Where a version lives, whether or not it is there."""
        return self._root / f"v{version}"

    def versions(self) -> list[int]:
        """Give the versions that have a folder, lowest first."""
        names = (_VERSION.fullmatch(entry.name) for entry in self._entries())
        return sorted(int(match[1]) for match in names if match)

    def holds(self, version: int, digest: str) -> bool:
        """Tell whether a version has all files of a store object, by name and size."""
        folder = self.path(version)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            sizes = {folder / name: size for name, (size, _) in manifest["files"].items()}
            whole = all(file.stat().st_size == size for file, size in sizes.items())
        except (OSError, ValueError, KeyError):
            return False
        return whole and bool(manifest["digest"] == digest)

    def place(self, source: Path, version: int, finish: Callable[[Path], None]) -> Path:
        """Put the files of a store object into a version's folder and give that folder.

        Args:
            source: the store object; only read and linked to.
            version: must not have a folder yet.
            finish: writes what the object does not have, before the folder becomes visible.
        """
        target = self.path(version)
        partial = target.with_name(f".{target.name}{PARTIAL}")
        partial.mkdir(parents=True)
        for file in sorted(entry for entry in source.rglob("*") if entry.is_file()):
            _link(file, partial / file.relative_to(source))
        finish(partial)
        for folder in [partial, *(entry for entry in partial.rglob("*") if entry.is_dir())]:
            _seal_files(folder)
        partial.rename(target)
        sync_folder(self._root)
        return target

    def remove(self, version: int) -> None:
        """Remove a version's folder, if it is there; the store keeps its object."""
        target = self.path(version)
        if target.exists():
            doomed = target.with_name(f".{target.name}.removed{PARTIAL}")
            target.rename(doomed)
            _remove_tree(doomed)

    def sweep(self) -> None:
        """Remove what a killed process left half-made."""
        for entry in self._entries():
            if entry.name.endswith(PARTIAL):
                _remove_tree(entry)

    def _entries(self) -> list[Path]:
        return list(self._root.iterdir()) if self._root.is_dir() else []


def _link(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError as problem:
        if problem.errno not in _NO_LINK:
            raise
        shutil.copyfile(file, target)


def _seal_files(folder: Path) -> None:
    for file in folder.iterdir():
        if file.is_file():
            sync_file(file)
            file.chmod(file.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    sync_folder(folder)


def _remove_tree(folder: Path) -> None:
    def clear_read_only(function: Callable[[str], object], path: str, _: object) -> None:
        # Windows deletes no read-only file; elsewhere this is not reached.
        Path(path).chmod(stat.S_IWRITE)
        function(path)

    shutil.rmtree(folder, onerror=clear_read_only)
