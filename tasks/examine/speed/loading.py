"""Dropping a model folder from the page cache, and proving that it is gone.

Knows files and pages; how long loading takes afterwards is measured elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from pathlib import Path

import numpy as np

# Other pages than these may stay: a file system keeps the odd one that it is just writing back.
_MAY_STAY = 0.01


def drop_from_page_cache(folder: Path) -> str:
    """Have the kernel forget the files of a folder, so that reading them goes to the disk.

    Returns:
        Why they are still there, or an empty string.
    """
    if not hasattr(os, "posix_fadvise") or sys.platform != "linux":
        return f"{sys.platform} has no way to drop a file from its cache"
    files = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                os.fsync(descriptor)  # a page that is still to be written does not go
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    stayed = sum(map(cached_bytes, files)) / sum(file.stat().st_size for file in files)
    if stayed > _MAY_STAY:
        return f"{stayed:.0%} of the files stayed in the page cache: in use, or in memory only"
    return ""


def cached_bytes(file: Path) -> int:
    """Count the bytes of a file that are in the page cache (Linux, mincore)."""
    size = file.stat().st_size
    library = ctypes.CDLL(None, use_errno=True)
    library.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        failed = library.mincore(view.ctypes.data, size, pages.ctypes.data)
        del view  # or the mapping cannot be closed
    if failed:
        raise OSError(ctypes.get_errno(), f"mincore of {file.name}")
    return int((pages & 1).sum()) * mmap.PAGESIZE
