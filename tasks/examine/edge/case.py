"""What a case of the edge suite is: what is done to an engine, what must come of it, what came.

Knows the shape of an engine, not which one it is; the cases themselves are in `*_cases.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np

from tasks.core.errors import EnvironmentUnfit, InputError, TransientFault
from tasks.examine.edge.plain_text import PlainTokenizer
from tasks.examine.out_of_memory import lack_of_memory_named

PROMPT_TOKENS = 8
NEW_TOKENS = 3
SENTENCE = "Turn the light on."
_SHOWN = 160
# What the engine's binding raises when it refuses (0.18: RuntimeError with the engine's words,
# TypeError for arguments, UnicodeError, which is a ValueError, for text), and Ingot's border.
_REFUSALS = (RuntimeError, TypeError, ValueError, InputError)


class Session(Interface):
    """A sequence that grows: what a generator of the engine can do."""

    def append(self, tokens: Sequence[int]) -> None:
        """Add tokens."""

    def next(self) -> int:
        """Generate one token."""

    def force_next(self, token: int) -> int:
        """Generate this token."""

    def ranking(self) -> list[int]:
        """Give the best tokens for the next place, best first."""

    def ended(self) -> bool:
        """Tell whether the engine takes the sequence for finished."""

    def rewind(self, length: int) -> None:
        """Keep the first tokens only."""


class Engine(Interface):
    """A loaded model folder that checks nothing by itself."""

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """Tokens that end an answer."""

    context_length: int
    vocabulary_size: int

    def render(self, turns: str, tools: str | None = None) -> str:
        """Render a conversation given as JSON text."""

    def encode(self, text: str | bytes) -> list[int]:
        """Tokenise."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text."""

    def streamed(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text one by one."""

    def session(self, max_length: int, **search: Any) -> Session:
        """Begin a sequence."""

    def batched(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Answer several prompts at once."""


@dataclass(frozen=True)
class Seen:
    """What came of a case: whether it is what must be, and in words."""

    passed: bool
    got: str


@dataclass(frozen=True)
class Case:
    """One edge.

    Attributes:
        name: unique; what is done.
        expected: what must come of it, in words.
        run: does it.
    """

    name: str
    expected: str
    run: Callable[[Subject], Seen]


@dataclass
class Subject:
    """The variant that the cases are run on.

    Attributes:
        engine: the loaded folder.
        folder: read only.
        scratch: for copies with a fault; on the same disk as `folder` where links are to work.
        patience_s: after which a process of its own counts as hanging.
        seed: of the token ids in prompts.
    """

    engine: Engine
    folder: Path
    scratch: Path
    patience_s: float = 60.0
    seed: int = 0

    @cached_property
    def plain(self) -> PlainTokenizer:
        """The folder's tokenizer as Hugging Face's library understands it."""
        return PlainTokenizer(self.folder, self.engine.eos_token_ids)

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Four prompts of token ids, so that no case of the engine depends on the tokenizer."""
        drawn = np.random.default_rng(self.seed).integers(
            0, self.engine.vocabulary_size, (4, PROMPT_TOKENS)
        )
        return [[int(token) for token in row] for row in drawn]

    @cached_property
    def usual(self) -> list[list[int]]:
        """What the engine says to the first prompt when nothing is wrong."""
        return said(self.engine, self.prompts[0])

    @cached_property
    def usual_tokens(self) -> list[int]:
        """The tokens of a sentence when nothing is wrong."""
        return self.engine.encode(SENTENCE)


def said(engine: Engine, prompt: Sequence[int], **search: Any) -> list[list[int]]:
    """Let the engine go on from a prompt, and give the ranking of tokens before each new one.

    Rankings, not tokens: a model that says the same to every prompt would hide a mixed-up cache.
    """
    session = engine.session(len(prompt) + NEW_TOKENS, **search)
    session.append(prompt)
    return list(_rankings(session))


def _rankings(session: Session) -> Iterator[list[int]]:
    for _ in range(NEW_TOKENS):
        yield session.ranking()
        session.next()


def refusal(act: Callable[[], object]) -> str | None:
    """Give the words in which something is refused, or None where it is accepted.

    Raises:
        DoesNotFit: memory ran out, which says nothing about the case; likewise ChildKilled.
        Exception: whatever is no refusal, such as the AttributeError of an adapter of our own.
    """
    try:
        with lack_of_memory_named("an edge case"):
            act()
    except _REFUSALS as problem:
        return _words(problem)
    return None


def failure(act: Callable[[], object]) -> str | None:
    """Give the words in which something failed, in whatever way, or None where it did not.

    Raises:
        DoesNotFit: memory ran out, which says nothing about the case; likewise ChildKilled.
    """
    try:
        with lack_of_memory_named("an edge case"):
            act()
    except (EnvironmentUnfit, TransientFault):
        raise
    except Exception as problem:  # noqa: BLE001  (an engine that is broken may raise anything)
        return _words(problem)
    return None


def _words(problem: Exception) -> str:
    return shown(f"{type(problem).__name__}: {problem}")


def shown(text: str) -> str:
    """Make one readable line of an engine's words."""
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def told(words: str | None) -> str:
    """Say whether something was refused, and how."""
    return "accepted" if words is None else f"refused ({words})"
