"""A machine that runs out of memory is not taken for a broken model, nor the other way round."""

from __future__ import annotations

import pytest

from tasks.core.errors import DoesNotFit
from tasks.examine.out_of_memory import lack_of_memory_named

LACKS = [
    RuntimeError("Exception during initialization: std::bad_alloc"),
    RuntimeError("bad allocation"),
    RuntimeError("Could not allocate the key-value cache buffer of shape: [batch_size (1), ..."),
    RuntimeError("bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 99"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you"),
    RuntimeError("The paging file is too small for this operation to complete."),
    MemoryError(),
]


@pytest.mark.parametrize("lack", LACKS, ids=repr)
def test_lack_of_memory_is_the_machines_fault(lack: Exception) -> None:
    named = pytest.raises(DoesNotFit, match="decoding failed, for lack of memory: ")
    with named, lack_of_memory_named("decoding failed"):
        raise lack


def test_other_errors_of_an_engine_pass_through() -> None:
    defect = RuntimeError("Unexpected input data type. Actual: (tensor(float16))")
    passed = pytest.raises(RuntimeError, match="Unexpected input")
    with passed, lack_of_memory_named("decoding failed"):
        raise defect
