"""What this process holds right now: resident memory, live heap, threads, open descriptors.

Read after every generation, so a reading leaves nothing behind and costs 0.1 ms; what the numbers
mean is `leak.py`'s matter.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import psutil

_KIB = 1024
_WITNESS_BYTES = 1 << 20
_STATUS_BYTES = 8192  # /proc/self/status has 1.5 kB here


class Memory(NamedTuple):
    """One reading.

    Attributes:
        rss_bytes: resident set size.
        anon_bytes: Linux: resident anonymous memory; Windows: private bytes; macOS: USS.
        heap_bytes: what malloc has given out and not got back; nan where it cannot be asked.
        threads: of this process.
        descriptors: open files, or handles on Windows.
    """

    rss_bytes: float
    anon_bytes: float
    heap_bytes: float
    threads: int
    descriptors: int


Sampler = Callable[[], Memory]
HeapReader = Callable[[], float]


def memory_sampler() -> tuple[Sampler, str]:
    """Give the reader of this system, and why it sees no heap (empty when it does)."""
    if sys.platform != "linux":
        return _read_through_psutil, f"{sys.platform} has no mallinfo2, so no live heap is known"
    heap, why = heap_reader()
    return _LinuxSampler(heap), why


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def heap_reader(library: ctypes.CDLL | None = None) -> tuple[HeapReader, str]:
    """Give a reader of the live heap over all of malloc's arenas, or nan with the reason.

    A reader that does not see a block that is allocated before its eyes is none: another malloc
    may have been preloaded, and glibc's would then report no growth whatever leaks.

    Args:
        library: the C library; this process's by default.
    """
    library = ctypes.CDLL(None) if library is None else library
    if not hasattr(library, "mallinfo2"):
        return _no_heap, "this C library has no mallinfo2 (glibc 2.33 and newer), so no live heap"
    library.mallinfo2.restype = _Mallinfo2

    def read() -> float:
        found = library.mallinfo2()
        return float(found.uordblks + found.hblkhd)

    before = read()
    witness = bytearray(_WITNESS_BYTES)
    if read() - before < len(witness):
        return _no_heap, "mallinfo2 does not see what this process allocates: another malloc is in"
    return read, ""


def _no_heap() -> float:
    return math.nan


class _LinuxSampler:
    """Reads /proc through descriptors and a buffer that are there before the first reading."""

    def __init__(self, heap: HeapReader) -> None:
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._buffer = bytearray(_STATUS_BYTES)
        self._heap = heap

    def __call__(self) -> Memory:
        os.preadv(self._status, [self._buffer], 0)
        return Memory(
            rss_bytes=self._number(b"\nVmRSS:") * _KIB,
            anon_bytes=self._number(b"\nRssAnon:") * _KIB,
            heap_bytes=self._heap(),
            threads=self._number(b"\nThreads:"),
            descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208  (a Path would cost more)
        )

    def _number(self, label: bytes) -> int:
        start = self._buffer.index(label) + len(label)
        return int(self._buffer[start : self._buffer.index(b"\n", start)].split()[0])


def _read_through_psutil() -> Memory:
    process = psutil.Process()
    memory = process.memory_info()
    if sys.platform == "win32":
        anonymous, descriptors = memory.private, process.num_handles()
    else:
        # USS costs milliseconds and scatters (a clean run of 400 once gave -12.6 kB each), but it
        # is all that macOS tells of memory that is this process's alone.
        anonymous, descriptors = process.memory_full_info().uss, process.num_fds()
    return Memory(memory.rss, anonymous, math.nan, process.num_threads(), descriptors)
