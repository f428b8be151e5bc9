"""The timing worker reads both of its clocks at the same places, and tells lack of memory apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.examine import timing_worker


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
        assert options["min_length"] == options["max_length"]

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


def test_cpu_seconds_and_seconds_end_and_begin_at_the_first_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(timing_worker, "time", clock)
    engine: Any = Genai(clock)
    found = timing_worker._run(engine, None, engine, [1, 2, 3], 5)
    assert (found["ttft_s"], found["decode_s"], found["e2e_s"]) == (101, 4 * 11, 101 + 4 * 11)
    assert (found["cpu_ttft_s"], found["cpu_decode_s"]) == (202, 2 * 4 * 11)


def test_lack_of_memory_ends_the_worker_with_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacking(folder: Path) -> None:
        raise RuntimeError("Exception during initialization: std::bad_alloc")

    def broken(folder: Path) -> None:
        raise RuntimeError("Load model failed")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(timing_worker.os, "_exit", leave)
    monkeypatch.setattr(timing_worker, "main", lacking)
    with pytest.raises(SystemExit, match=str(timing_worker.OUT_OF_MEMORY)):
        timing_worker.run(Path())
    monkeypatch.setattr(timing_worker, "main", broken)
    with pytest.raises(RuntimeError, match="Load model failed"):
        timing_worker.run(Path())
