"""What the scenarios share: the warm home, a folder each, and the rows of the table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.bench import Bench
from tests.faults.table import Row
from tests.faults.warm import Warm

SCENARIOS: dict[str, Callable[[Scene], None]] = {}


def scenario(function: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Make a function one of the scenarios, under its name in words."""
    SCENARIOS[function.__name__.replace("_", " ")] = function
    return function


@dataclass(frozen=True)
class Scene:
    """One scenario that is being played."""

    warm: Warm
    folder: Path
    tell: Callable[[Row], None]
    benches: list[Bench]

    def bench(self, name: str = "bench", *, api: str | None = "the shared one") -> Bench:
        """Give a copy of the warm home."""
        bench = self.warm.copy(self.folder / name, api=api)
        self.benches.append(bench)
        return bench


class Workshop:
    """Plays scenarios, and keeps their rows."""

    def __init__(self, warm: Warm, folder: Path) -> None:
        self.warm = warm
        self._folder = folder
        self._rows: dict[str, list[Row]] = {}
        self._mutex = threading.Lock()

    def play(self, name: str) -> None:
        """Play a scenario.

        Raises:
            AssertionError: something did not hold; the message has all of it.
        """
        with self._mutex:
            rows = self._rows.setdefault(name, [])
            folder = self._folder / f"scenario-{len(self._rows)}"
        scene = Scene(self.warm, folder, rows.append, [])
        try:
            SCENARIOS[name](scene)
        finally:
            for bench in scene.benches:
                bench.end_everything()
        problems = [problem for bench in scene.benches for problem in bench.problems]
        assert not problems, "\n".join(problems)

    @property
    def rows(self) -> list[Row]:
        """All rows, scenario by scenario."""
        order = [name for name in SCENARIOS if name in self._rows]
        return [row for name in order for row in self._rows[name]]
