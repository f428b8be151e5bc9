"""Token sequences that models are compared on: a prompt through the template, then an answer.

Built with the checkpoint's own tokenizer, so that every model sees the same ids; no model here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.core.records import Question
from tasks.examine.protocol import Protocol, ideal_text

if TYPE_CHECKING:  # importing transformers takes seconds
    from tasks.examine.hugging_face import CheckpointTokenizer


@dataclass(frozen=True)
class Source:
    """Where a run of tokens comes from: a document, the first token's place in it, how many."""

    document: str
    offset: int
    length: int


@dataclass(frozen=True)
class Forced:
    """A prompt and the answer that is forced after it, as token ids.

    Attributes:
        question_id: or the name of the document.
        category: of the question; `text` for documents.
        prompt, answer: token ids.
        sources: of prompt and answer together, where they were put together from documents.
    """

    question_id: str
    category: str
    prompt: list[int]
    answer: list[int]
    sources: tuple[Source, ...] = ()

    @property
    def tokens(self) -> list[int]:
        """What the model is fed: all but the last token, whose successor nobody knows."""
        return [*self.prompt, *self.answer[:-1]]

    @property
    def start(self) -> int:
        """First position whose logits predict a token of the answer."""
        return len(self.prompt) - 1

    @property
    def next_tokens(self) -> NDArray[np.int64]:
        """The answer's tokens: what the positions from `start` on predict."""
        return np.asarray(self.answer, np.int64)

    def origins(self) -> tuple[list[str], NDArray[np.int64]]:
        """Give for each token of the answer its question or document, and its place in that."""
        if not self.sources:
            return [self.question_id] * len(self.answer), np.arange(len(self.answer))
        names = [part.document for part in self.sources for _ in range(part.length)]
        places = [np.arange(part.offset, part.offset + part.length) for part in self.sources]
        scored = slice(len(self.prompt), len(self.prompt) + len(self.answer))
        return names[scored], np.concatenate(places)[scored]

    def cut(self, tokens: int) -> Forced:
        """Keep only the first tokens of the answer."""
        return replace(self, answer=self.answer[:tokens])


def forced_sequences(
    questions: Sequence[Question],
    tokenizer: CheckpointTokenizer,
    spoken: Mapping[str, list[int]],
    *,
    context_length: int,
) -> list[Forced]:
    """Put an answer after each question's prompt.

    The ideal answer where the question has one, else what the reference itself said. Prompt and
    answer are tokenised apart, as in generation, where no token spans both.

    Args:
        questions: what is asked.
        tokenizer: the checkpoint's.
        spoken: the reference's greedy tokens by question id.
        context_length: sequences are cut there.
    """
    end = tokenizer.end_of_turn()
    closing = [] if end is None else [end]
    sequences = []
    for question in questions:
        prompt = tokenizer.prompt(question.messages)
        if question.answer:
            answer = [*tokenizer.encode(question.answer), *closing]
        else:
            answer = spoken[question.id]
        room = context_length - len(prompt)
        sequences.append(Forced(question.id, question.category, prompt, answer[:room]))
    return sequences


def answer_limits(
    questions: Sequence[Question], tokenizer: CheckpointTokenizer, protocol: Protocol
) -> dict[str, int]:
    """Give the new tokens that an answer may have, by question id; the same for every model."""
    return {
        question.id: protocol.answer_limit(_ideal_tokens(question, tokenizer))
        for question in questions
    }


def _ideal_tokens(question: Question, tokenizer: CheckpointTokenizer) -> int | None:
    text = ideal_text(question)
    return None if text is None else len(tokenizer.encode(text))
