"""The timing worker reads both of its clocks at the same places, and tells lack of memory apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.examine.speed import worker


class Clock:
    """Wall clock and CPU clock of a machine with two busy cores, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 2 * self.now


class Genai:
    """An engine whose prefill takes 100 s, picking a token 1 s, and each decoding step 10 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._has_logits = False

    def GeneratorParams(self, model: Any) -> Any:  # noqa: N802  (the engine's own name)
        return self

    def Generator(self, model: Any, parameters: Any) -> Any:  # noqa: N802
        return self

    def create_stream(self) -> Any:
        return self

    def set_search_options(self, **options: Any) -> None:
        self.options = options

    def append_tokens(self, tokens: list[int]) -> None:
        self._clock.now += 100
        self._has_logits = True

    def generate_next_token(self) -> None:
        self._clock.now += 1 if self._has_logits else 11
        self._has_logits = False

    def get_next_tokens(self) -> list[int]:
        return [7]

    def decode(self, token: int) -> str:
        return "x"

    def encode(self, text: str) -> list[int]:
        self._clock.now += 1000
        return [7]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)
    return Genai(clock)


def test_cpu_seconds_and_seconds_end_and_begin_at_the_first_token(engine: Any) -> None:
    found = worker._run(engine, None, engine, [1, 2, 3], 5)
    assert (found["ttft_s"], found["decode_s"], found["e2e_s"]) == (101, 4 * 11, 101 + 4 * 11)
    assert (found["cpu_ttft_s"], found["cpu_decode_s"]) == (202, 2 * 4 * 11)
    assert (found["prefill_s"], found["cpu_prefill_s"]) == (100, 200)
    assert found["itl"] == [11, 11, 11, 11]


def test_reading_text_is_timed_apart_from_the_model(engine: Any) -> None:
    found = worker._run(engine, None, engine, [1, 2, 3], 5)
    assert found["tokenize_s"] == 1000
    assert found["e2e_s"] < 1000


def test_cache_has_just_the_room_of_the_run_unless_more_is_asked_for(engine: Any) -> None:
    worker._run(engine, None, engine, [1, 2, 3], 5)
    assert (engine.options["min_length"], engine.options["max_length"]) == (8, 8)
    assert "random_seed" not in engine.options  # an application gives none, and waits for it
    worker._run(engine, None, engine, [1, 2, 3], 5, 4096)
    assert (engine.options["min_length"], engine.options["max_length"]) == (8, 4096)


def test_peak_memory_starts_anew_and_says_so_where_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_CLEAR_REFS", tmp_path / "clear_refs")
    assert worker.reset_peak()
    assert (tmp_path / "clear_refs").read_text() == "5"
    monkeypatch.setattr(worker, "_CLEAR_REFS", tmp_path / "nowhere" / "clear_refs")
    assert not worker.reset_peak()


def test_lack_of_memory_ends_the_worker_with_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacking(folder: Path, session_options: str) -> None:
        raise RuntimeError("Exception during initialization: std::bad_alloc")

    def broken(folder: Path, session_options: str) -> None:
        raise RuntimeError("Load model failed")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(worker.os, "_exit", leave)
    monkeypatch.setattr(worker, "main", lacking)
    with pytest.raises(SystemExit, match=str(worker.OUT_OF_MEMORY)):
        worker.run(Path())
    monkeypatch.setattr(worker, "main", broken)
    with pytest.raises(RuntimeError, match="Load model failed"):
        worker.run(Path())
