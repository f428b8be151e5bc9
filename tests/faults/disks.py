"""A small disk of its own for a home: filled up, emptied, made read-only. Linux, as root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILLER = ".filler"


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[None]:
    """Mount an empty disk in memory on a folder while the block runs.

    Skips where this user may not mount: without it nothing can be filled up safely.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_mib}m,mode=700"
    done = _mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    if done.returncode:
        pytest.skip(f"this user may not mount a small disk: {done.stderr.strip()}")
    try:
        yield
    finally:
        _unmount(folder)


def fill(disk: Path) -> None:
    """Take every byte that is left."""
    with (disk / FILLER).open("ab") as stream, contextlib.suppress(OSError):
        while free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize:
            os.posix_fallocate(stream.fileno(), stream.tell(), free)
            stream.seek(0, os.SEEK_END)


def empty(disk: Path) -> None:
    """Give them back."""
    (disk / FILLER).unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write below a folder, not even root, while the block runs."""
    for options in (("--bind", str(folder), str(folder)), ("-o", "remount,bind,ro", str(folder))):
        done = _mount(*options)
        assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        _unmount(folder)


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


def _unmount(folder: Path) -> None:
    # Lazily: a process that was just killed may still be in the kernel's hands.
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
