"""Everything that decides what an examination measures, in one record that enters cache keys.

Knows counts, limits and seeds; how they are used is the examination's matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Self

from pydantic import Field

from tasks.core.questions import MOST_QUESTIONS
from tasks.core.records import Question, Record

# Raise it when an examination changes what it measures: cached evidence is then made again.
REVISION = 3


class TimingPlan(Record):
    """How speed is measured: launches of all workers, rounds in each, tokens in each run.

    Attributes:
        launches, rounds: at most; at least `least_launches` and `least_rounds` are done even when
            the time is spent. One launch alone gives no interval.
        budget_s: seconds after which no further round is begun.
    """

    prompt_tokens: int = Field(default=128, ge=1)
    new_tokens: int = Field(default=32, ge=2)
    launches: int = Field(default=3, ge=2)
    rounds: int = Field(default=20, ge=1)
    least_launches: int = Field(default=2, ge=2)
    least_rounds: int = Field(default=3, ge=1)
    warmups: int = Field(default=2, ge=0)
    budget_s: float = Field(default=120.0, gt=0)


class Protocol(Record):
    """How variants are examined.

    Attributes:
        revision: of the examining code.
        max_questions: questions that are answered; more are sampled down, see `sample_questions`.
        kld_max_questions: questions on whose answers the fidelity is measured.
        control_max_questions: questions that the FP32 ONNX model is compared with Hugging Face on.
        control_max_tokens: tokens of each of those answers that are compared.
        decode_max_questions: questions on which prefill is compared with decoding.
        decode_max_tokens: tokens of each of those that are decoded one by one.
        repeats: greedy runs of one prompt that must give the same tokens.
        answer_factor, answer_margin_tokens: an answer may have factor * (tokens of the ideal
            answer) + margin tokens.
        answer_default_tokens: limit where no ideal answer is known.
        bootstrap_samples: resamples behind an interval.
        seed: of every sampling.
        timing: how speed is measured.
    """

    revision: int = REVISION
    max_questions: int = Field(default=MOST_QUESTIONS, ge=1)
    kld_max_questions: int = Field(default=400, ge=2)
    control_max_questions: int = Field(default=64, ge=2)
    control_max_tokens: int = Field(default=64, ge=1)
    decode_max_questions: int = Field(default=8, ge=2)
    decode_max_tokens: int = Field(default=64, ge=2)
    repeats: int = Field(default=3, ge=2)
    answer_factor: float = Field(default=2.0, ge=1.0)
    answer_margin_tokens: int = Field(default=16, ge=1)
    answer_default_tokens: int = Field(default=128, ge=1)
    bootstrap_samples: int = Field(default=2000, ge=200)
    seed: int = 0
    timing: TimingPlan = TimingPlan()

    @classmethod
    def standard(cls) -> Self:
        """Give the protocol that releases are examined with."""
        return cls()

    def answer_limit(self, ideal_tokens: int | None) -> int:
        """Give how many tokens an answer may have before it counts as not stopping.

        Args:
            ideal_tokens: length of the ideal answer, or None where none is known.
        """
        if ideal_tokens is None:
            return self.answer_default_tokens
        return int(self.answer_factor * ideal_tokens) + self.answer_margin_tokens


def ideal_text(question: Question) -> str | None:
    """Give a right answer to a question, or None where none is known."""
    if question.answer is not None:
        return question.answer
    expectation = question.expectation
    if expectation.kind == "exact":
        return str(expectation.value)
    if expectation.kind == "json":
        return json.dumps(expectation.value, ensure_ascii=False)
    return None


def sample_questions(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """Pick questions so that every category keeps its share, in their given order.

    The choice depends on ids and seed alone: it is the same on every machine and for every
    variant, so that answers stay paired.
    """
    if len(questions) <= count:
        return list(questions)
    ranks: dict[str, list[tuple[str, int]]] = {}
    for index, question in enumerate(questions):
        ranks.setdefault(question.category, []).append((_draw(question.id, seed), index))
    # The k-th of n questions of a category comes at k / n: cutting at any length is proportional.
    places = [
        ((rank + 0.5) / len(drawn), draw, index)
        for drawn in ranks.values()
        for rank, (draw, index) in enumerate(sorted(drawn))
    ]
    return [questions[index] for index in sorted(place[2] for place in sorted(places)[:count])]


def _draw(question_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{question_id}".encode()).hexdigest()
