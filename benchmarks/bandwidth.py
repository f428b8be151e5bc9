"""How fast this machine reads memory: the limit of decoding, which reads every weight once a token.

Runs as `python -m benchmarks.bandwidth THREADS LIBRARY`; gives gigabytes a second on standard
output. A loop in C where there is a compiler, as numpy's reductions read 15 to 40 % less.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE_BYTES = 1 << 30  # far beyond any cache
PASSES = 5  # the fastest counts: whatever disturbs only slows down

# 32 accumulators: enough independent loads to keep the memory busy at any width of vectors.
_SOURCE = """
#include <stddef.h>
#include <stdint.h>
uint64_t read_all(const uint64_t *words, size_t count) {
    uint64_t seen[32] = {0}, all = 0;
    for (size_t i = 0; i + 32 <= count; i += 32)
        for (int k = 0; k < 32; k++) seen[k] |= words[i + k];
    for (int k = 0; k < 32; k++) all |= seen[k];
    return all;
}
"""

Reader = Callable[[Any], object]


def reader(library: Path) -> tuple[Reader, str]:
    """Give what reads an array once, and its name; compiled into `library` where that can be."""
    if not library.is_file():
        _compile(library)
    if not library.is_file():
        return np.bitwise_or.reduce, "numpy"
    read_all = ctypes.CDLL(str(library)).read_all
    read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return lambda part: read_all(part.ctypes.data, part.size), "C"


def _compile(library: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return
    source = library.with_suffix(".c")
    source.write_text(_SOURCE, encoding="ascii")
    options = ["-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run([compiler, *options], check=False, capture_output=True)


def bytes_per_s(threads: int, read: Reader) -> float:
    """Read an array with so many threads, and give the fastest pass; neither holds the GIL."""
    parts = np.array_split(np.ones(SIZE_BYTES // 8, dtype=np.int64), threads)
    fastest = min(_pass_s(parts, read) for _ in range(PASSES))
    return SIZE_BYTES / fastest


def _pass_s(parts: list[Any], read: Reader) -> float:
    workers = [threading.Thread(target=read, args=(part,)) for part in parts]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began


if __name__ == "__main__":
    found, how = reader(Path(sys.argv[2]))
    print(json.dumps({"gb_per_s": bytes_per_s(int(sys.argv[1]), found) / 1e9, "by": how}))
