"""Growth is told from noise, from steps and from the cycle of lengths; the reader leaves nothing.

What the real engine leaves behind is tests/real's matter.
"""

from __future__ import annotations

import math
import mmap
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tasks.core.errors import VariantUnusable
from tasks.core.records import Measurement
from tasks.examine.protocol import SoakPlan
from tasks.examine.soak import memory_sampler
from tasks.examine.soak.leak import (
    LEAK_BUDGET_BYTES,
    Growth,
    Series,
    growth,
    soak_metrics,
)
from tasks.examine.soak.loop import COLUMNS, Soak, fitting_lengths, soaked
from tasks.examine.soak.memory_sampler import Memory, heap_reader
from tasks.examine.soak.soak import LEAST_BLOCKS, deadline_s

LENGTHS = (16, 32, 64)
CYCLE = len(LENGTHS)
N = 600
MIB = 2**20

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def noise(n: int = N, scale: float = 4096.0) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, scale, n)


def grown(values: NDArray[np.float64]) -> Growth:
    found = growth(values, CYCLE)
    assert found is not None
    return found


# ---------------------------------------------------------------- what a series says


def test_level_memory_with_noise_lies_wholly_within_the_budget() -> None:
    low, high = grown(100 * MIB + noise()).interval
    assert low < 0 < high < LEAK_BUDGET_BYTES


def test_leak_of_16_kib_is_proven_and_measured() -> None:
    found = grown(16384 * np.arange(N) + noise())
    assert found.interval[0] > LEAK_BUDGET_BYTES
    assert found.slope == pytest.approx(16384, rel=0.01)


def test_leak_of_1_kib_is_seen_within_the_budget() -> None:
    low, high = grown(1024 * np.arange(N) + noise()).interval
    assert 256 < low < high < LEAK_BUDGET_BYTES


def test_one_step_of_a_mebibyte_is_no_leak() -> None:
    steps = np.where(np.arange(N) > N / 2, MIB, 0.0)
    assert grown(steps + noise()).interval[1] < LEAK_BUDGET_BYTES


def test_what_a_long_prompt_needs_for_a_while_is_no_growth() -> None:
    came_and_went = np.tile([0.0, 3.0 * MIB, 90.0 * MIB], N // CYCLE)
    assert grown(came_and_went).slope == 0


def test_leak_after_the_longest_prompt_only_is_seen() -> None:
    lost = np.repeat(np.arange(N // CYCLE), CYCLE) * 60_000.0
    assert grown(lost).interval[0] > LEAK_BUDGET_BYTES


@pytest.mark.parametrize(("blocks", "enough"), [(LEAST_BLOCKS - 1, False), (LEAST_BLOCKS, True)])
def test_too_few_blocks_have_no_interval(blocks: int, enough: bool) -> None:
    assert (growth(np.zeros(blocks * CYCLE), CYCLE) is not None) is enough


def frame(n: int = N, **columns: object) -> pd.DataFrame:
    rows = {name: np.zeros(n) for name in COLUMNS} | {"decode_s": np.full(n, 0.01)} | columns
    return pd.DataFrame(rows)


def measured(rows: pd.DataFrame, *, no_heap: str = "") -> dict[str, Measurement]:
    series = Series(rows, cycle=CYCLE, planned=len(rows), how="test", no_heap=no_heap)
    return soak_metrics(series, samples=200, seed=0)


def test_measurement_says_how_it_was_made() -> None:
    found = measured(frame(anon_b=16384.0 * np.arange(N)))["soak.anon_growth_bytes"]
    assert found.value == pytest.approx(16384)
    assert found.unit == "B"
    assert "97.5%" in found.method
    assert "200 blocks" in found.method


def test_too_few_generations_measure_nothing_and_say_so() -> None:
    found = measured(frame(50))["soak.anon_growth_bytes"]
    assert found.value is None
    assert found.applies
    assert "fewer than 20 cycles" in found.method


def test_heap_that_cannot_be_asked_does_not_apply() -> None:
    metrics = measured(frame(heap_b=np.full(N, math.nan)), no_heap="no mallinfo2 here")
    assert not metrics["soak.heap_growth_bytes"].applies
    assert metrics["soak.anon_growth_bytes"].value == 0


def test_heap_readings_that_went_missing_are_not_measured() -> None:
    metrics = measured(frame(heap_b=np.full(N, math.nan)))
    assert metrics["soak.heap_growth_bytes"].applies
    assert metrics["soak.heap_growth_bytes"].value is None


def test_one_thread_and_two_files_too_many_are_counted() -> None:
    threads, files = np.full(N, 4), np.full(N, 9)
    threads[-1], files[300:] = 5, 11
    metrics = measured(frame(threads=threads, fds=files))
    assert metrics["soak.thread_growth"].value == 1
    assert metrics["soak.descriptor_growth"].value == 2


# ---------------------------------------------------------------- does it slow down?

LONG = 3000


def decoding(seconds: NDArray[np.float64]) -> Measurement:
    return measured(frame(len(seconds), decode_s=seconds))["soak.decode_rate_ratio"]


def of_lengths(n: int = LONG) -> NDArray[np.float64]:
    """Decoding takes longer after a longer prompt, and no two generations take the same."""
    times = np.random.default_rng(1).lognormal(-5, 0.05, n)
    return np.asarray(times * np.tile([1.0, 1.5, 3.0], n // CYCLE))


def test_processor_that_slows_down_by_a_quarter_is_seen() -> None:
    times = of_lengths()
    times[LONG // 2 :] *= 1.25
    found = decoding(times)
    assert found.value == pytest.approx(0.8, abs=0.03)
    assert found.ci95 is not None
    assert found.ci95[1] < 0.9


def test_busy_neighbours_are_no_slow_processor() -> None:
    times = of_lengths()
    times[-1000:][np.random.default_rng(2).random(1000) < 0.6] *= 2.5
    assert decoding(times).value == pytest.approx(1, abs=0.05)


def test_short_soak_says_nothing_of_heat() -> None:
    assert not decoding(of_lengths(600)).applies


def test_long_soak_that_was_cut_short_is_not_measured() -> None:
    series = Series(frame(600), cycle=CYCLE, planned=LONG, how="test")
    found = soak_metrics(series, samples=200, seed=0)["soak.decode_rate_ratio"]
    assert found.applies
    assert found.value is None


# ---------------------------------------------------------------- the long run


class Idle:
    """An engine that generates nothing, and remembers what it was asked."""

    context_length = 4096

    def __init__(self) -> None:
        self.prompts: list[int] = []

    def generate(self, index: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        self.prompts.append(prompt_tokens)
        return 0.01, 0.01


class Silent:
    """The same, remembering nothing: it is the reader that is measured."""

    context_length = 4096

    def generate(self, index: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        return 0.01, 0.01


PLAN = SoakPlan(warmup=30, generations=150, lengths=LENGTHS, budget_s=60.0)


def run(readings: Callable[[int], float], plan: SoakPlan = PLAN) -> tuple[Soak, Idle]:
    """Soak an idle engine with this live heap after each generation."""
    engine = Idle()

    def read() -> Memory:
        return Memory(1.0, 1.0, readings(len(engine.prompts)), 4, 9)

    return soaked(engine, plan, sampler=(read, ""), say=lambda _: None), engine


def test_prompt_lengths_come_in_turn_and_each_generation_is_a_row() -> None:
    soak, engine = run(lambda _: 0.0)
    assert engine.prompts[:4] == [16, 32, 64, 16]
    rows = soak.frame()
    assert list(rows.columns) == list(COLUMNS)
    assert list(rows["n_in"]) == engine.prompts
    assert list(rows["i"]) == list(range(180))


def test_growth_in_the_warm_up_is_dropped() -> None:
    soak, _ = run(lambda done: min(done, 30) * float(MIB))
    series = soak.series()
    assert len(series.frame) == 150
    found = soak_metrics(series, samples=200, seed=0)["soak.heap_growth_bytes"]
    assert found.value == 0


@pytest.mark.parametrize("slope", [0.0, 20_000.0])
def test_clear_case_is_not_looked_at_twice(slope: float) -> None:
    soak, engine = run(lambda done: slope * done)
    assert len(engine.prompts) == 180
    assert not soak.doubled


def test_growth_that_may_be_too_much_is_looked_at_twice_as_long_and_once_only() -> None:
    jitter = noise(1000, scale=200_000.0)
    soak, engine = run(lambda done: LEAK_BUDGET_BYTES * done + float(jitter[done]))
    assert len(engine.prompts) == 30 + 2 * 150
    assert "doubled once: the first 150 left it open" in soak.series().how


def test_spent_time_ends_the_run_but_not_below_what_an_interval_needs() -> None:
    soak, _ = run(lambda _: 0.0, PLAN.model_copy(update={"budget_s": 1e-9}))
    assert len(soak.series().frame) == LEAST_BLOCKS * CYCLE
    assert "ended by the time limit" in soak.series().how


def test_prompts_that_do_not_fit_into_the_context_are_left_out() -> None:
    assert fitting_lengths(PLAN, 50) == [16, 32]
    assert fitting_lengths(PLAN, 20) == [4]


def test_context_without_room_for_an_answer_is_named() -> None:
    with pytest.raises(VariantUnusable, match="no room for 16 new"):
        fitting_lengths(PLAN, 16)


def test_deadline_leaves_a_large_model_time_for_the_least() -> None:
    small, large = deadline_s(10**6, PLAN), deadline_s(10**10, PLAN)
    assert small > PLAN.budget_s
    assert large > small + (PLAN.warmup + LEAST_BLOCKS * CYCLE) * PLAN.new_tokens * 10


# ---------------------------------------------------------------- the reader of memory


@linux_only
def test_reading_memory_leaves_no_memory_behind() -> None:
    plan = PLAN.model_copy(update={"warmup": 100, "generations": 300})
    soak = soaked(Silent(), plan, sampler=memory_sampler.memory_sampler(), say=lambda _: None)
    metrics = soak_metrics(soak.series(), samples=200, seed=0)
    for name in ("soak.heap_growth_bytes", "soak.anon_growth_bytes"):
        low, high = metrics[name].ci95 or (math.nan, math.nan)
        assert -16 < low <= high < 16, name


@linux_only
def test_reader_sees_a_live_block_and_anonymous_pages() -> None:
    read, no_heap = memory_sampler.memory_sampler()
    assert no_heap == ""
    before = read()
    block = bytearray(MIB)
    with_block = read()
    pages = mmap.mmap(-1, 16 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, len(pages), mmap.PAGESIZE):
        pages[place] = 1
    with_pages = read()
    assert with_block.heap_bytes - before.heap_bytes >= len(block)
    assert with_pages.anon_bytes - with_block.anon_bytes > 15 * MIB
    assert with_pages.rss_bytes >= with_pages.anon_bytes


@linux_only
def test_reader_sees_a_thread_and_an_open_file(tmp_path: Path) -> None:
    read, _ = memory_sampler.memory_sampler()
    before, done = read(), threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with (tmp_path / "open").open("w"):
        after = read()
    done.set()
    thread.join()
    assert after.threads == before.threads + 1
    assert after.descriptors == before.descriptors + 1


class Blind:
    """A C library whose mallinfo2 sees nothing, because another malloc was preloaded."""

    class _Numbers:
        uordblks = hblkhd = 0

    def __init__(self) -> None:
        numbers = self._Numbers
        self.mallinfo2 = type("Function", (), {"__call__": lambda _: numbers})()


def test_heap_reader_that_sees_no_allocation_is_none() -> None:
    read, why = heap_reader(Blind())  # type: ignore[arg-type]
    assert "another malloc" in why
    assert math.isnan(read())


def test_c_library_without_mallinfo2_is_named() -> None:
    read, why = heap_reader(object())  # type: ignore[arg-type]
    assert "no mallinfo2" in why
    assert math.isnan(read())
