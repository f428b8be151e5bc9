"""The protocol decides what is asked, the same on every machine and for every variant."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.core.records import ExaminationProfile, Expectation, Message, Question
from tasks.examine.protocol import Protocol, TimingPlan, ideal_text, sample_questions

ASKED = [
    Question(
        id=f"q{number}",
        category="common" if number % 10 else "rare",
        messages=[Message(role="user", content="?")],
        expectation=Expectation(kind="contains", value="x"),
    )
    for number in range(200)
]


def test_few_questions_are_all_asked() -> None:
    assert sample_questions(ASKED, 200, seed=0) == ASKED


def test_sample_keeps_order_and_the_share_of_each_category() -> None:
    sample = sample_questions(ASKED, 50, seed=0)
    places = [ASKED.index(question) for question in sample]
    assert places == sorted(places)
    assert Counter(question.category for question in sample) == {"common": 45, "rare": 5}


def test_sample_does_not_depend_on_the_order_of_the_file() -> None:
    forwards = {question.id for question in sample_questions(ASKED, 50, seed=0)}
    backwards = {question.id for question in sample_questions(ASKED[::-1], 50, seed=0)}
    assert forwards == backwards
    assert forwards != {question.id for question in sample_questions(ASKED, 50, seed=1)}


def test_answer_limit_follows_the_ideal_answer() -> None:
    protocol = Protocol.of(ExaminationProfile.STANDARD)
    assert protocol.answer_limit(20) == 104
    assert protocol.answer_limit(None) == 128


@pytest.mark.parametrize(
    ("answer", "kind", "value", "ideal"),
    [
        ("yes", "regex", ".*", "yes"),
        (None, "exact", "On.", "On."),
        (None, "json", {"a": "ü"}, '{"a": "ü"}'),
        (None, "regex", ".*", None),
    ],
)
def test_ideal_text_is_the_answer_or_what_the_expectation_says(
    answer: str | None, kind: Any, value: Any, ideal: str | None
) -> None:
    expectation = Expectation(kind=kind, value=value)
    question = ASKED[0].model_copy(update={"answer": answer, "expectation": expectation})
    assert ideal_text(question) == ideal


def test_plan_that_can_give_no_interval_is_refused() -> None:
    with pytest.raises(ValidationError, match="launches"):
        TimingPlan(launches=1)
    with pytest.raises(ValidationError, match="control_max_questions"):
        Protocol(control_max_questions=1)


def test_protocol_survives_json() -> None:
    protocol = Protocol.of(ExaminationProfile.STANDARD)
    assert Protocol.model_validate_json(protocol.model_dump_json()) == protocol
