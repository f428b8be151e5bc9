"""The long run: one generation after the other, and a reading of memory after each.

Everything that takes memory is there before the first reading: the table is written over, and
the fit has run once. What is made in between would look like growth. Knows no engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.core.errors import VariantUnusable
from tasks.core.progress import report_progress
from tasks.examine.protocol import SoakPlan
from tasks.examine.soak.leak import Series, growth, is_open
from tasks.examine.soak.memory_sampler import Sampler
from tasks.examine.soak.soak import LEAST_BLOCKS

COLUMNS = (
    "i", "n_in", "t_s", "rss_b", "anon_b", "heap_b", "threads", "fds", "decode_s", "cpu_s",
)  # fmt: skip
_WHOLE = ("i", "n_in", "rss_b", "anon_b", "threads", "fds")
_SAY_EVERY = 50

Seconds = tuple[float, float]


class Engine(Protocol):
    """Whatever generates over and over."""

    context_length: int

    def generate(self, index: int, prompt_tokens: int, new_tokens: int) -> Seconds:
        """Generate once; gives wall and CPU seconds of decoding, after the first token."""


@dataclass
class Soak:
    """One run: what is generated, and the readings so far.

    Attributes:
        lengths: prompt tokens, in a cycle.
        no_heap: why the sampler sees no live heap; empty when it does.
        least: generations that are done even when the time is spent.
        table: a row a generation, all of it written over beforehand.
        done: rows that are readings.
    """

    engine: Engine
    plan: SoakPlan
    lengths: Sequence[int]
    sampler: Sampler
    no_heap: str
    table: NDArray[np.float64]
    done: int = 0
    doubled: bool = False
    began_s: float = field(default_factory=time.perf_counter)

    @property
    def least(self) -> int:
        """Generations without which there is no interval."""
        return self.plan.warmup + LEAST_BLOCKS * len(self.lengths)

    @property
    def has_time(self) -> bool:
        """Whether the plan allows another generation."""
        return self.done < self.least or self._spent_s() < self.plan.budget_s

    def go_on(self, until: int, say: Callable[[str], None]) -> None:
        """Generate until so many are done, or the time is spent and the least is done."""
        while self.done < until and self.has_time:
            if self.done % _SAY_EVERY == 0:
                say(f"soak, generation {self.done:,} of {until:,}")
            length = self.lengths[self.done % len(self.lengths)]
            seconds = self.engine.generate(self.done, length, self.plan.new_tokens)
            # The generator is gone by now: what is still there stays.
            memory = self.sampler()
            self.table[self.done] = (self.done, length, self._spent_s(), *memory, *seconds)
            self.done += 1

    def frame(self) -> pd.DataFrame:
        """Give all readings, the warm-up among them."""
        rows = pd.DataFrame(self.table[: self.done], columns=list(COLUMNS))
        return rows.astype(dict.fromkeys(_WHOLE, "int64"))

    def series(self) -> Series:
        """Give the readings after the warm-up, and how they came about."""
        rows = self.frame().iloc[self.plan.warmup :]
        return Series(
            frame=rows,
            cycle=len(self.lengths),
            planned=self.plan.generations,
            how=self._how(len(rows)),
            no_heap=self.no_heap,
        )

    def _how(self, seen: int) -> str:
        lengths = ", ".join(map(str, self.lengths))
        looks = f", doubled once: the first {self.plan.generations:,} left it open"
        planned = self.plan.generations * (2 if self.doubled else 1)
        short = f", ended by the time limit of {self.plan.budget_s:,.0f} s"
        return (
            f"{seen:,} generations after {self.plan.warmup:,} of warm-up"
            f"{looks if self.doubled else ''}{short if seen < planned else ''}; each with a fresh "
            f"generator and another text of {lengths} tokens in turn, "
            f"{self.plan.new_tokens} new ones"
        )

    def _spent_s(self) -> float:
        return time.perf_counter() - self.began_s


def soaked(
    engine: Engine,
    plan: SoakPlan,
    *,
    sampler: tuple[Sampler, str],
    say: Callable[[str], None] = report_progress,
) -> Soak:
    """Generate as the plan says; where that leaves growth open, as many again, once.

    Args:
        engine: what generates.
        plan: how long, and with which prompts.
        sampler: reader of memory, and why it sees no heap, see `memory_sampler`.
        say: told how far it is.
    """
    planned, most = plan.warmup + plan.generations, plan.warmup + 2 * plan.generations
    read, no_heap = sampler
    soak = Soak(
        engine=engine,
        plan=plan,
        lengths=fitting_lengths(plan, engine.context_length),
        sampler=read,
        no_heap=no_heap,
        table=np.full((most, len(COLUMNS)), -1.0),  # not np.zeros: its pages come with the writing
    )
    # At 10,000 generations the fit takes 100 MB and leaves 15 MB of it behind: now, not in between.
    growth(np.zeros(plan.generations), len(soak.lengths))
    soak.go_on(planned, say)
    if soak.has_time and is_open(soak.series()):
        soak.doubled = True
        soak.go_on(most, say)
    return soak


def fitting_lengths(plan: SoakPlan, context_length: int) -> list[int]:
    """Give the prompt lengths that leave room for the new tokens; the longest that does, if none.

    Raises:
        VariantUnusable: the context has no room for one prompt token and the new ones.
    """
    room = context_length - plan.new_tokens
    if room < 1:
        raise VariantUnusable(
            f"a context of {context_length} tokens has no room for {plan.new_tokens} new ones"
        )
    return [length for length in plan.lengths if length <= room] or [room]
