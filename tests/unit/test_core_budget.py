"""Heavy steps run side by side only as far as the memory reaches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core import budget
from tasks.core.budget import (
    GIB,
    RESERVE_BYTES,
    MemoryBudget,
    examine_reference_bytes,
    examine_variant_bytes,
    machine_memory,
    stage_bytes,
)
from tasks.core.memory import Memory, bounded
from tasks.core.records import Checkpoint, Precision


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


def half_billion() -> Checkpoint:
    """Qwen2.5-0.5B's shape, for which the peaks were measured."""
    return Checkpoint(
        name="half",
        path=Path("/models/half"),
        digest="0" * 64,
        family="qwen2",
        architecture="Qwen2ForCausalLM",
        parameters=494_032_768,
        weight_dtype="BF16",
        source_bytes=988_097_824,
        weight_files=["model.safetensors"],
        hidden_size=896,
        layers=24,
        attention_heads=14,
        kv_heads=2,
        head_size=64,
        vocabulary_size=151936,
        context_length=32768,
        tied_embeddings=True,
        eos_token_ids=[2],
        chat_template_file="chat_template.jinja",
        sampling={},
    )


REFERENCE_BYTES, INT4_BYTES, FP16_BYTES = 1_985_000_000, 318_000_000, 993_000_000


def test_examination_is_forecast_above_the_measured_peak_but_not_by_far() -> None:
    checkpoint = half_billion()
    reference = examine_reference_bytes(checkpoint, REFERENCE_BYTES)
    int4 = examine_variant_bytes(checkpoint, REFERENCE_BYTES, Precision.INT4, INT4_BYTES)
    assert 6.1e9 <= reference <= 1.2 * 6.1e9
    assert 4.1e9 <= int4 <= 1.2 * 4.1e9


def test_fp16_counts_as_the_fp32_that_it_becomes() -> None:
    checkpoint = half_billion()
    fp16 = examine_variant_bytes(checkpoint, REFERENCE_BYTES, Precision.FP16, FP16_BYTES)
    int8 = examine_variant_bytes(checkpoint, REFERENCE_BYTES, Precision.INT8, FP16_BYTES)
    assert fp16 - int8 > 0.8 * FP16_BYTES


def test_staged_variant_is_counted_in_both_runtimes() -> None:
    small = stage_bytes(half_billion(), Precision.FP16, 0)
    large = stage_bytes(half_billion(), Precision.FP16, FP16_BYTES)
    assert large - small >= 2 * 2.5 * FP16_BYTES


@pytest.fixture
def available_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    readings = [8 * GIB]

    def read() -> Memory:
        time.sleep(0.05)
        return Memory(24 * GIB, readings[-1])

    monkeypatch.setattr(budget, "read_memory", read)
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


def test_bound_of_a_container_bounds_the_budget(available_bytes: list[int], tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{6 * GIB}\n")
    (tmp_path / "memory.current").write_text("0\n")
    (tmp_path / "memory.stat").write_text("anon 0\n")
    available_bytes.append(bounded(Memory(24 * GIB, 20 * GIB), tmp_path).available_bytes)
    memory = machine_memory()
    assert Step(memory, 4 * GIB).runs()
    assert Step(memory, 1).waits()
