"""Changed answers are counted in pairs, with intervals that are never empty."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tasks.core.errors import QuestionsRefused
from tasks.core.records import Expectation, Message, Question
from tasks.examine.answers import (
    METRIC_NAMES,
    answer_metrics,
    answer_notes,
    answer_questions,
    answers_frame,
    category_frame,
)
from tasks.examine.generation import Completion

ASKED = [
    Question(
        id=f"q{number}",
        category="even" if number % 2 == 0 else "odd",
        messages=[Message(role="user", content=str(number))],
        expectation=Expectation(kind="json", value=number),
    )
    for number in range(10)
]


class Parrot:
    """An engine that answers with what it is asked, but for the questions it gets wrong."""

    context_length = 20

    def __init__(self, **said: str) -> None:
        self._said = said
        self.limits: list[int] = []

    def render(self, messages: list[Message]) -> str:
        return messages[-1].content

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def complete(self, prompt: list[int], limit: int) -> Completion:
        self.limits.append(limit)
        asked = self.decode(prompt)
        tokens = self.encode(self._said.get(f"q{asked}", asked))
        return Completion(tokens[:limit], stopped=len(tokens) <= limit)

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


def rows(**said: str) -> pd.DataFrame:
    engine: Any = Parrot(**said)
    limits = {question.id: 4 for question in ASKED}
    return answers_frame(ASKED, answer_questions(engine, ASKED, limits, lambda line: None))


def values(reference: pd.DataFrame, variant: pd.DataFrame) -> dict[str, float | None]:
    return {name: found.value for name, found in answer_metrics(reference, variant).items()}


def test_unchanged_answers_have_no_flip_and_still_an_interval() -> None:
    metrics = answer_metrics(rows(), rows())
    assert tuple(metrics) == METRIC_NAMES
    assert metrics["answers.right"].value == metrics["answers.recovery"].value == 1
    for name in ("answers.delta", "answers.recovery", "answers.flip_rate", "answers.stopped_ratio"):
        low, high = metrics[name].ci95 or (0.0, 0.0)
        assert low < high, name


def test_gains_do_not_hide_losses() -> None:
    metrics = values(rows(q1="no", q3="no"), rows(q2="no", q4="no"))
    assert metrics["answers.delta"] == 0
    assert metrics["answers.flip_rate"] == 0.4
    assert metrics["answers.harm"] == 0.2


def test_broken_format_empty_answers_and_running_on_are_seen() -> None:
    metrics = values(rows(), rows(q0="{", q1="", q2="22222222"))
    assert metrics["answers.format_delta"] == pytest.approx(-0.2)
    assert metrics["answers.empty"] == 1
    assert metrics["answers.stopped_ratio"] == pytest.approx(0.9)
    assert metrics["answers.recovery"] == pytest.approx(0.7)


def test_ratio_over_a_reference_that_is_never_right_is_not_measured() -> None:
    wrong = rows(**{question.id: "no" for question in ASKED})
    assert values(wrong, rows())["answers.recovery"] is None


def test_each_category_has_its_own_row() -> None:
    found = category_frame(rows(), rows(q1="no", q3="no")).set_index("category")
    assert found.loc["odd", "right"] == pytest.approx(0.6)
    assert found.loc["odd", "delta_low"] < -0.4 < found.loc["odd", "delta_high"]
    assert found.loc["even", "flips"] == 0


def test_notes_show_both_answers_and_count_the_rest() -> None:
    harmed = {question.id: "no" for question in ASKED[:7]}
    notes = answer_notes(rows(), rows(**harmed))
    assert notes[0].startswith("q0 (even): the reference says '0', which is right")
    assert notes[-1] == "and 2 more questions turned from right to wrong"


def test_answers_end_with_the_context_and_longer_questions_are_refused() -> None:
    engine: Any = Parrot()
    engine.context_length = 2
    assert answer_questions(engine, ASKED[:1], {"q0": 99}, lambda line: None)[0].right
    assert engine.limits == [1]
    engine.context_length = 1
    with pytest.raises(QuestionsRefused, match="question 'q0' is longer"):
        answer_questions(engine, ASKED[:1], {"q0": 99}, lambda line: None)
