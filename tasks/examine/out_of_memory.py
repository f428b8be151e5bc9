"""Tells an engine that ran out of memory from a model that is broken: both are bare RuntimeErrors.

Light, because the timing worker's own memory is measured; what a broken model means, others say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.core.errors import DoesNotFit

# The words of ONNX Runtime GenAI 0.18 under a memory limit (provoked 2026-11): "std::bad_alloc"
# while loading, "Could not allocate the key-value cache buffer", "Failed to allocate memory for
# requested buffer of size". "can't allocate memory" is torch's, "bad allocation" and the paging
# file are Windows's.
_WORDS = re.compile(
    r"bad[ _]alloc|could not allocate|failed to allocate memory|(can't|cannot) allocate memory"
    r"|not enough memory|paging file is too small",
    re.IGNORECASE,
)


def is_out_of_memory(problem: BaseException) -> bool:
    """Tell whether the machine, not the model, is what failed."""
    return isinstance(problem, MemoryError) or _WORDS.search(str(problem)) is not None


@contextmanager
def lack_of_memory_named(doing: str) -> Iterator[None]:
    """Turn a lack of memory into DoesNotFit, and let every other error through.

    Args:
        doing: what fails, such as `cannot load model`.

    Raises:
        DoesNotFit: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        words = " ".join(str(problem).split()) or type(problem).__name__
        raise DoesNotFit(
            f"{doing}, for lack of memory: {words[:500]}",
            next_step="free memory, or take a machine with more; then run the same command again",
        ) from problem
