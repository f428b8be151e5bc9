"""Letting heavy steps of this process run side by side only as far as memory reaches.

A weighted semaphore over forecasts. It trusts the forecasts and measures nothing.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

GIB = 1024**3
RESERVE_BYTES = 2 * GIB  # for the system and the flow itself


class MemoryBudget:
    """Bytes that steps reserve before they start and give back when they end.

    Args:
        total_bytes: what may be in use at once. A step that wants more than that runs alone.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._in_use = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, wanted_bytes: int) -> Iterator[None]:
        """Wait until the bytes are free, and hold them while the block runs."""
        share = min(wanted_bytes, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._in_use + share <= self._total)
            self._in_use += share
        try:
            yield
        finally:
            with self._changed:
                self._in_use -= share
                self._changed.notify_all()


def examination_bytes(*model_bytes: int) -> int:
    """Estimate the peak memory of examining models side by side in one child.

    FP16 weights become FP32 when x86 loads them: measured 2.5 times the file (ONNX Runtime 1.31),
    the others less; 1 GiB for Python, tokenizer and logits at a vocabulary of 152k.
    """
    return int(2.6 * sum(model_bytes)) + GIB


_first_use = threading.Lock()


def machine_memory() -> MemoryBudget:
    """Give this process's one budget: what was available at first use, less a reserve."""
    # `functools.cache` runs the function twice when two threads come first at the same time.
    with _first_use:
        return _machine_memory()


@functools.cache
def _machine_memory() -> MemoryBudget:
    available = psutil.virtual_memory().available
    return MemoryBudget(max(available - RESERVE_BYTES, available // 2))
