"""Writing and hashing files so that a half-written one is never seen.

Knows bytes and names; what the bytes mean belongs to the callers.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path


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


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: two threads that write one file would share a partial one.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def folder_bytes(path: Path) -> int:
    """Add up the sizes of all files below a folder, in bytes."""
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
