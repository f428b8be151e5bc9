"""Content-addressed folders: built aside, made read-only, published by one rename.

Existence means complete: a folder under `objects/` has every byte that its name promises. Knows
nothing of what the folders hold.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import socket
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydantic import BaseModel

from tasks.core.errors import ToolFailed
from tasks.core.files import digest_of, sha256_file, sync_file, sync_folder

log = logging.getLogger(__name__)

MANIFEST = ".manifest.json"
_ALREADY_THERE = (errno.ENOTEMPTY, errno.EEXIST)


class _Manifest(BaseModel):
    """What an object promises: its name, and size and SHA-256 of every file."""

    digest: str
    files: dict[str, tuple[int, str]]


class Store:
    """A folder of immutable objects, each named by the digest of its names and bytes."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._staging = root / "tmp"

    def path(self, digest: str) -> Path:
        """Where an object lives, whether or not it is there."""
        return self._objects / digest

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty folder to build in; whatever is not published is removed at the end."""
        folder = self._own_folder()
        folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)

    def publish(self, staged: Path) -> str:
        """Move a finished folder into the store and give its digest.

        Publishing the same content twice is harmless; a damaged object of that name is replaced.

        Raises:
            OSError: the disk is full or read-only; nothing is visible then.
            ToolFailed: the folder holds a symbolic link, so its bytes are elsewhere.
        """
        _refuse_links(staged)
        manifest = _read_folder(staged)
        (staged / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        _seal(staged)
        self._objects.mkdir(parents=True, exist_ok=True)
        self._move_in(staged, manifest.digest)
        sync_folder(self._objects)
        return manifest.digest

    def _move_in(self, staged: Path, digest: str) -> None:
        # A loop, because another process may replace the same damaged object at the same time.
        while True:
            try:
                staged.rename(self.path(digest))
                return
            except OSError as problem:
                if problem.errno not in _ALREADY_THERE:
                    raise
            if self.is_intact(digest, deep=True):
                return
            log.warning("object %s was damaged; replacing it", digest[:12])
            self.discard(digest)

    def is_intact(self, digest: str, *, deep: bool = False) -> bool:
        """Tell whether an object is there with all its files; what cannot be read is not.

        Args:
            digest: the object's name.
            deep: hash every byte again instead of comparing sizes; a file too many counts too.
        """
        folder = self.path(digest)
        try:
            manifest = _Manifest.model_validate_json((folder / MANIFEST).read_bytes())
            whole = _read_folder(folder) == manifest if deep else _has_sizes(folder, manifest)
        except (OSError, ValueError):
            return False
        return whole and manifest.digest == digest

    def discard(self, digest: str) -> None:
        """Remove an object, damaged or not."""
        doomed = self._own_folder()
        # Gone already when another process was faster.
        with contextlib.suppress(FileNotFoundError):
            self.path(digest).rename(doomed)
        _remove(doomed)

    def sweep(self) -> int:
        """Remove staging folders whose process is gone; gives how many.

        Only this machine's: on a shared disk another machine's process cannot be seen from here.
        """
        removed = 0
        for folder in self._staging.glob("*-*-*"):
            host, process, _ = folder.name.rsplit("-", 2)
            if host == socket.gethostname() and not psutil.pid_exists(int(process)):
                _remove(folder)
                removed += 1
        return removed

    def _own_folder(self) -> Path:
        """Name a folder in the staging area so that `sweep` knows whose it is."""
        self._staging.mkdir(parents=True, exist_ok=True)
        owner = f"{socket.gethostname()}-{os.getpid()}"
        return self._staging / f"{owner}-{uuid.uuid4().hex[:12]}"


def _refuse_links(folder: Path) -> None:
    for entry in folder.rglob("*"):
        if entry.is_symlink():
            raise ToolFailed(
                f"{entry.relative_to(folder)} is a symbolic link",
                expected="files whose bytes are in the folder itself",
                got=f"a link to {entry.readlink()}",
                next_step="have the tool that made it copy files instead of linking them",
            )


def _read_folder(folder: Path) -> _Manifest:
    files = {
        file.relative_to(folder).as_posix(): (file.stat().st_size, sha256_file(file))
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST
    }
    digest = digest_of((name, sha256) for name, (_, sha256) in files.items())
    return _Manifest(digest=digest, files=files)


def _has_sizes(folder: Path, manifest: _Manifest) -> bool:
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, (size, _) in manifest.files.items()
    )


def _seal(folder: Path) -> None:
    """Sync every entry, and make the files read-only: what is published never changes."""
    for entry in folder.rglob("*"):
        if entry.is_dir():
            sync_folder(entry)
        else:
            sync_file(entry)
            entry.chmod(entry.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    sync_folder(folder)


def _remove(folder: Path) -> None:
    """Remove what is left of a folder; its files may be read-only, which Windows minds."""
    for entry in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if not entry.is_symlink():
                entry.chmod(entry.stat().st_mode | stat.S_IWUSR)
    shutil.rmtree(folder, ignore_errors=True)
