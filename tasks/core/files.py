"""Writing and hashing files so that a half-written one is never seen.

Knows bytes and names; what the bytes mean belongs to the callers.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path

import psutil

_PARTIAL = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{12}\.partial")


def sha256_file(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, as 64 hex characters."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(named_digests: Iterable[tuple[str, str]]) -> str:
    """Give one digest over (name, sha256) pairs, independent of their order."""
    total = hashlib.sha256()
    for name, sha256 in sorted(named_digests):
        total.update(f"{name}\0{sha256}\n".encode())
    return total.hexdigest()


def sync_file(path: Path) -> None:
    """Make a file's bytes survive a power cut."""
    # Windows syncs through a writable handle only; elsewhere the file may well be read-only.
    with path.open("r+b" if os.name == "nt" else "rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Make a folder's entries survive a power cut; a no-op on Windows, which has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make a folder with all that is below it survive a power cut."""
    for entry in folder.rglob("*"):
        if entry.is_dir():
            sync_folder(entry)
        else:
            sync_file(entry)
    sync_folder(folder)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id alone: two threads that write one file would share a partial one.
    owner = f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    partial = path.with_name(f".{path.name}.{owner}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def is_left_over(file: Path) -> bool:
    """Tell whether a file is what `write_text_atomically` left when its process was killed.

    Only this machine's: another one's process cannot be seen from here.
    """
    named = _PARTIAL.fullmatch(file.name)
    return named is not None and named[1] == _host() and not psutil.pid_exists(int(named[2]))


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def make_private_folder(path: Path) -> None:
    """Make a folder, and the missing ones above it, that only this user may enter.

    Raises:
        PermissionError: it belongs to somebody else, or may not be made.
        OSError: something else is in its place.
    """
    missing = [place for place in (path, *path.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if os.name == "nt":
        return  # a new folder has the rights of the one around it, which is the user's own
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"belongs to user {found.st_uid}", str(path))
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


def folder_bytes(path: Path) -> int:
    """Add up the sizes of all files below a folder, in bytes."""
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
