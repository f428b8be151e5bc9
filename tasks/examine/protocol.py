"""Everything that decides what an examination measures, in one record that enters cache keys.

Knows counts, limits and seeds; how they are used is the examination's matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field

from tasks.core.records import ExaminationProfile, Question, Record

# Raise it when an examination changes what it measures: cached evidence is then made again.
REVISION = 5

# Two looks at growing samples share the error that one look would have (Bonferroni).
_ONE_LOOK, _OF_TWO_LOOKS = 0.95, 0.975


class Scenario(Record):
    """One workload to time: a prompt of so many tokens, then so many new ones."""

    name: str
    prompt_tokens: int = Field(ge=1)
    new_tokens: int = Field(ge=2)


SHORT = Scenario(name="short", prompt_tokens=16, new_tokens=64)
CHAT = Scenario(name="chat", prompt_tokens=128, new_tokens=128)
RAG = Scenario(name="rag", prompt_tokens=1024, new_tokens=128)


class TimingPlan(Record):
    """How speed is measured: launches of all workers, rounds in each, scenarios in each round.

    Attributes:
        scenarios: of fixed size; those that do not fit into the context are left out.
        long_tokens: prompt of the scenario `long` at most, which else fills 3/4 of the context;
            0 leaves it out.
        launches, rounds: at most; at least `least_launches` and `least_rounds` are done even when
            the time is spent. One launch alone gives no interval.
        budget_s: seconds after which no further round is begun.
        lengths: prompt lengths at which time to first token is measured, below the context.
        tune_budget_s: seconds for the sweep over threads and spinning; 0 leaves it out.
        idle_s: seconds of rest over which idle power is measured, where power can be read.
    """

    scenarios: tuple[Scenario, ...] = (SHORT, CHAT, RAG)
    long_tokens: int = Field(default=2048, ge=0)
    launches: int = Field(default=3, ge=2)
    rounds: int = Field(default=8, ge=1)
    least_launches: int = Field(default=2, ge=2)
    least_rounds: int = Field(default=3, ge=1)
    warmups: int = Field(default=2, ge=0)
    budget_s: float = Field(default=120.0, gt=0)
    lengths: tuple[int, ...] = (16, 64, 128, 256, 512, 1024, 2048)
    tune_budget_s: float = Field(default=30.0, ge=0)
    idle_s: float = Field(default=30.0, ge=0)


class TextPlan(Record):
    """On which plain text the next-token distribution is compared.

    Attributes:
        windows, window_tokens: short windows, one document each.
        long_windows, long_tokens: long ones, of several documents, at most 0.9 of the context:
            they show the divergence by position.
    """

    windows: int = Field(default=32, ge=2)
    window_tokens: int = Field(default=256, ge=16)
    long_windows: int = Field(default=4, ge=2)
    long_tokens: int = Field(default=2048, ge=64)


class LengthPlan(Record):
    """How answers are held against the length of their prompt.

    Attributes:
        questions: each is asked once, at one length and depth, in the middle of neutral filler.
            Below 64 no interval is narrower than 5 points.
        prompt_tokens: lengths of the filled prompts, at most 0.9 of the context.
        depths: place of the question in the filler, 0 to 1.
    """

    questions: int = Field(default=150, ge=1)
    prompt_tokens: tuple[int, ...] = (128, 256, 512, 2048)
    depths: tuple[float, ...] = (0.1, 0.5, 0.9)


class SoakPlan(Record):
    """How long a variant generates to show a leak.

    Attributes:
        warmup: generations that are dropped; anonymous memory still grows in the first 300.
        generations: after the warm-up; an inconclusive verdict doubles them once.
        lengths: prompt tokens, in a cycle; a fixed input hides leaks.
        new_tokens: of each generation.
        budget_s: seconds after which no further generation is begun, but for the warm-up and 20
            cycles of lengths, below which there is no interval.
    """

    warmup: int = Field(default=300, ge=0)
    generations: int = Field(default=1000, ge=100)
    lengths: tuple[int, ...] = (16, 32, 64, 128, 192)
    new_tokens: int = Field(default=16, ge=2)
    budget_s: float = Field(default=1200.0, gt=0)


class Protocol(Record):
    """How variants are examined.

    Attributes:
        revision: of the examining code.
        profile: which of the three this is.
        max_questions: questions that are answered at the first look; more are sampled down, see
            `sample_questions`.
        most_questions: questions at the second look, which a variant gets once when the first was
            inconclusive.
        level: of every interval on questions: 0.95, or 0.975 where there may be two looks.
        kld_max_questions: questions on whose answers the fidelity is measured.
        control_max_questions: questions that the FP32 ONNX model is compared with Hugging Face on.
        control_max_tokens: tokens of each of those answers that are compared.
        control_windows: windows of plain text that are compared too.
        decode_max_questions: questions on which prefill is compared with decoding.
        decode_max_tokens: tokens of each of those that are decoded one by one.
        repeats: greedy runs of one prompt that must give the same tokens.
        bait_tokens: of each answer to a prompt that baits, at most: 48 are three repeats of 16, the
            least in which most cycles are seen.
        guided_max_questions: questions that are answered again with constrained decoding.
        answer_factor, answer_margin_tokens: an answer may have factor * (tokens of the ideal
            answer) + margin tokens. A margin of 16 hides cycles of 17 tokens and more; with 64
            every answer without an end is seen to loop (measured on a wrong EOS).
        answer_default_tokens: limit where no ideal answer is known.
        bootstrap_samples: resamples behind an interval.
        seed: of every sampling.
        load_cycles: loads and unloads in Foundry Local after which memory must be back.
    """

    revision: int = REVISION
    profile: ExaminationProfile = ExaminationProfile.STANDARD
    max_questions: int = Field(default=500, ge=1)
    most_questions: int = Field(default=1000, ge=1)
    level: float = Field(default=_ONE_LOOK, gt=0, lt=1)
    kld_max_questions: int = Field(default=400, ge=2)
    control_max_questions: int = Field(default=64, ge=2)
    control_max_tokens: int = Field(default=64, ge=1)
    control_windows: int = Field(default=4, ge=1)
    decode_max_questions: int = Field(default=8, ge=2)
    decode_max_tokens: int = Field(default=64, ge=2)
    repeats: int = Field(default=3, ge=2)
    bait_tokens: int = Field(default=48, ge=2)
    guided_max_questions: int = Field(default=100, ge=1)
    answer_factor: float = Field(default=2.0, ge=1.0)
    answer_margin_tokens: int = Field(default=64, ge=1)
    answer_default_tokens: int = Field(default=128, ge=1)
    bootstrap_samples: int = Field(default=2000, ge=200)
    seed: int = 0
    load_cycles: int = Field(default=12, ge=4)
    timing: TimingPlan = TimingPlan()
    text: TextPlan = TextPlan()
    length: LengthPlan = LengthPlan()
    soak: SoakPlan = SoakPlan()

    @classmethod
    def of(cls, profile: ExaminationProfile) -> Self:
        """Give the protocol of a profile."""
        return cls(**_PROFILES[profile])

    def for_questions(self, count: int) -> Self:
        """Fit the looks to a question file: one that the first look reads whole gets only one."""
        looks = min(count, self.most_questions) > self.max_questions
        return self.model_copy(update={"level": _OF_TWO_LOOKS if looks else _ONE_LOOK})

    def second_look(self) -> Self | None:
        """Give the protocol of the second look, or None where there is only one."""
        if self.level == _ONE_LOOK or self.max_questions == self.most_questions:
            return None
        most = {"max_questions": self.most_questions, "kld_max_questions": self.most_questions}
        return self.model_copy(update=most)

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


# Smoke has the fewest observations with which every gate can still pass: minutes, and any doubt
# is INCONCLUSIVE. Full is a night's work.
_PROFILES: dict[ExaminationProfile, dict[str, Any]] = {
    ExaminationProfile.SMOKE: {
        "profile": ExaminationProfile.SMOKE,
        "max_questions": 300,
        "most_questions": 300,
        "kld_max_questions": 240,
        "control_max_questions": 16,
        "control_windows": 2,
        "decode_max_questions": 4,
        "guided_max_questions": 40,
        "load_cycles": 6,
        "timing": TimingPlan(
            scenarios=(SHORT, CHAT),
            long_tokens=0,
            launches=2,
            rounds=8,
            budget_s=15.0,
            lengths=(16, 64, 256, 1024),
            tune_budget_s=0.0,
            idle_s=5.0,
        ),
        "text": TextPlan(windows=8, long_windows=2, long_tokens=1024),
        "length": LengthPlan(questions=64, prompt_tokens=(128, 256, 512)),
        "soak": SoakPlan(generations=300, lengths=(16, 32, 64), new_tokens=8, budget_s=300.0),
    },
    ExaminationProfile.STANDARD: {},
    ExaminationProfile.FULL: {
        "profile": ExaminationProfile.FULL,
        "max_questions": 1000,
        "most_questions": 2000,
        "kld_max_questions": 1000,
        "control_max_questions": 128,
        "control_windows": 8,
        "guided_max_questions": 300,
        "load_cycles": 40,
        "timing": TimingPlan(
            launches=5, rounds=15, long_tokens=16_384, budget_s=1800.0, tune_budget_s=120.0
        ),
        "text": TextPlan(windows=128, long_windows=8, long_tokens=8192),
        "length": LengthPlan(questions=300, prompt_tokens=(128, 256, 512, 2048, 8192)),
        "soak": SoakPlan(generations=10_000, budget_s=7200.0),
    },
}
