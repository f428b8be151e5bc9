"""Content-addressed folders: built aside, made read-only, published by one rename.

Existence means complete: a folder under `objects/` has every byte that its name promises. What is
built aside belongs to a living process by the kernel's word (`Claims`). Knows nothing of what the
folders hold.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from tasks.core.errors import ToolFailed
from tasks.core.files import digest_of, sha256_file, sync_file, sync_folder
from tasks.core.locks import Claims

log = logging.getLogger(__name__)

MANIFEST = ".manifest.json"
_ALREADY_THERE = (errno.ENOTEMPTY, errno.EEXIST)


class Manifest(BaseModel):
    """What an object promises: its name, and size and SHA-256 of every file."""

    digest: str
    files: dict[str, tuple[int, str]]

    @classmethod
    def of(cls, files: Mapping[str, Path]) -> Manifest:
        """Read files, by their names in the object, and promise what they hold."""
        found = {
            name: (file.stat().st_size, sha256_file(file)) for name, file in sorted(files.items())
        }
        return cls(
            digest=digest_of((name, sha256) for name, (_, sha256) in found.items()), files=found
        )


class Store:
    """A folder of immutable objects, each named by the digest of its names and bytes."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._staging = root / "tmp"
        self._claims = Claims(root / "locks")

    def path(self, digest: str) -> Path:
        """Where an object lives, whether or not it is there."""
        return self._folder(digest)

    def _folder(self, digest: str) -> Path:
        return self._objects / digest

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty folder to build in; whatever is not published is removed at the end."""
        with self._own_folder() as folder:
            folder.mkdir()
            yield folder

    def publish(self, staged: Path) -> str:
        """Move a finished folder into the store and give its digest.

        Publishing the same content twice is harmless; a damaged object of that name is replaced.

        Raises:
            OSError: the disk is full or read-only; nothing is visible then.
            ToolFailed: the folder holds a symbolic link, so its bytes are elsewhere.
        """
        _refuse_links(staged)
        return self._publish(staged, read_folder(staged))

    def _publish(self, staged: Path, manifest: Manifest) -> str:
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
                staged.rename(self._folder(digest))
                return
            except OSError as problem:
                if problem.errno not in _ALREADY_THERE:
                    raise
            if self._is_intact_here(digest, deep=True):
                return
            log.warning("object %s was damaged; replacing it", digest[:12])
            self._discard_here(digest)

    def is_intact(self, digest: str, *, deep: bool = False) -> bool:
        """Tell whether an object is there with all its files; what cannot be read is not.

        Args:
            digest: the object's name.
            deep: hash every byte again instead of comparing sizes; a file too many counts too.
        """
        return self._is_intact_here(digest, deep=deep)

    def _is_intact_here(self, digest: str, *, deep: bool = False) -> bool:
        folder = self._folder(digest)
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
            whole = read_folder(folder) == manifest if deep else _has_sizes(folder, manifest)
        except (OSError, ValueError):
            return False
        return whole and manifest.digest == digest

    def discard(self, digest: str) -> None:
        """Remove an object, damaged or not."""
        self._discard_here(digest)

    def _discard_here(self, digest: str) -> None:
        # Gone already when another process was faster.
        with self._own_folder() as doomed, contextlib.suppress(FileNotFoundError):
            self._folder(digest).rename(doomed)

    def sweep(self) -> int:
        """Remove staging folders whose process is gone; gives how many."""
        if not self._staged():
            return 0
        with self._claims.mutex():
            # Whoever makes a folder has claimed its name before: what nobody holds is nobody's.
            orphans = [one for one in self._staged() if not self._claims.is_held(one.name)]
            for name in self._claims.names():
                if not self._claims.is_held(name):
                    self._claims.forget(name)
        # Gigabytes, for which nobody has to wait: none of these names is ever given again.
        for folder in orphans:
            _remove(folder)
        return len(orphans)

    def _staged(self) -> list[Path]:
        return [folder for folder in self._staging.glob("*") if folder.is_dir()]

    @contextmanager
    def _own_folder(self) -> Iterator[Path]:
        """Name a folder in the staging area that is ours for the block, and remove it then."""
        name = uuid.uuid4().hex[:12]
        with self._claims.mutex():
            lock = self._claims.take(name)
        folder = self._staging / name
        try:
            self._staging.mkdir(parents=True, exist_ok=True)
            yield folder
        finally:
            _remove(folder)
            self._claims.give_back(name, lock)


def _refuse_links(folder: Path) -> None:
    for entry in folder.rglob("*"):
        if entry.is_symlink():
            raise ToolFailed(
                f"{entry.relative_to(folder)} is a symbolic link",
                expected="files whose bytes are in the folder itself",
                got=f"a link to {entry.readlink()}",
                next_step="have the tool that made it copy files instead of linking them",
            )


def read_folder(folder: Path) -> Manifest:
    """Read every file of a folder, but for its manifest, and promise what they hold."""
    return Manifest.of(
        {
            file.relative_to(folder).as_posix(): file
            for file in folder.rglob("*")
            if file.is_file() and file != folder / MANIFEST
        }
    )


def _has_sizes(folder: Path, manifest: Manifest) -> bool:
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
    """Remove what is left of a folder; its files may be read-only, which Windows minds.

    Elsewhere they are left as they are: a hard link of one may be in use, and shares its mode.
    """
    for entry in folder.rglob("*") if os.name == "nt" else ():
        with contextlib.suppress(OSError):
            if not entry.is_symlink():
                entry.chmod(entry.stat().st_mode | stat.S_IWUSR)
    shutil.rmtree(folder, ignore_errors=True)
