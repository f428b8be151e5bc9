"""Heavy steps run side by side only as far as the memory reaches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tasks.core import budget
from tasks.core.budget import GIB, RESERVE_BYTES, MemoryBudget, examination_bytes, machine_memory


class Step:
    """A step in a thread of its own that holds its bytes until it is let go."""

    def __init__(self, memory: MemoryBudget, wanted_bytes: int) -> None:
        self.running = threading.Event()
        self._may_end = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(memory, wanted_bytes), daemon=True)
        self._thread.start()

    def _run(self, memory: MemoryBudget, wanted_bytes: int) -> None:
        with memory.reserve(wanted_bytes):
            self.running.set()
            self._may_end.wait(60)

    def runs(self) -> bool:
        return self.running.wait(30)

    def waits(self) -> bool:
        return not self.running.wait(0.2)

    def end(self) -> None:
        self._may_end.set()
        self._thread.join(30)


def test_steps_that_fit_run_side_by_side() -> None:
    memory = MemoryBudget(100)
    assert all(step.runs() for step in [Step(memory, 60), Step(memory, 40)])


def test_step_that_does_not_fit_waits_until_bytes_are_given_back() -> None:
    memory = MemoryBudget(100)
    first = Step(memory, 60)
    assert first.runs()
    second = Step(memory, 41)
    assert second.waits()
    first.end()
    assert second.runs()


def test_step_larger_than_everything_runs_alone() -> None:
    memory = MemoryBudget(100)
    giant = Step(memory, 1000)
    assert giant.runs()
    small = Step(memory, 1)
    assert small.waits()
    giant.end()
    assert small.runs()
    another = Step(memory, 1000)
    assert another.waits()
    small.end()
    assert another.runs()


def test_failed_step_gives_its_bytes_back() -> None:
    memory = MemoryBudget(100)
    with pytest.raises(RuntimeError), memory.reserve(100):
        raise RuntimeError
    assert Step(memory, 100).runs()


def test_examination_needs_more_than_the_models_weigh() -> None:
    assert examination_bytes() == GIB
    assert examination_bytes(GIB, GIB) == examination_bytes(2 * GIB) > 5 * GIB


@pytest.fixture
def available_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    readings = [8 * GIB]

    def read() -> SimpleNamespace:
        time.sleep(0.05)
        return SimpleNamespace(available=readings[-1])

    monkeypatch.setattr(budget.psutil, "virtual_memory", read)
    budget._machine_memory.cache_clear()
    yield readings
    budget._machine_memory.cache_clear()


def test_threads_that_come_first_together_share_one_budget(available_bytes: list[int]) -> None:
    found: list[MemoryBudget] = []
    threads = [threading.Thread(target=lambda: found.append(machine_memory())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(memory) for memory in found}) == 1


def test_system_keeps_its_reserve(available_bytes: list[int]) -> None:
    memory = machine_memory()
    assert Step(memory, 8 * GIB - RESERVE_BYTES).runs()
    assert Step(memory, 1).waits()


def test_small_machine_has_half_of_what_is_free(available_bytes: list[int]) -> None:
    available_bytes.append(GIB)
    memory = machine_memory()
    assert Step(memory, GIB // 2).runs()
    assert Step(memory, 1).waits()
