"""The home-command domain: nothing held out leaks, every wording is unambiguous, seeds repeat."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import jsonschema
import pytest

from demo.answers import (
    HELD_OUT_ONE_IN,
    answer_text,
    belongs_to,
    draw_answer,
    draw_any_answer,
    is_held_out,
)
from demo.chat_templates import WRONG_TEMPLATES, WRONG_TEMPLATES_HELD_OUT
from demo.home_commands import (
    CATEGORY_WEIGHTS,
    Conversation,
    draw_bad_template,
    draw_conversation,
    training_conversations,
)
from demo.phrasings import SMALL_TALK
from demo.questions import Question, make_questions, read_questions, schema_of, write_questions
from demo.speech import say_number, say_time, spell_number

ANSWER_IS_HELD_OUT = ("single", "multi_turn", "long_2", "long_8", "long_16", "long_32")
REQUEST_IS_HELD_OUT = ("out_of_scope", "invalid_value", "empty")


@pytest.fixture(scope="module")
def training() -> list[Conversation]:
    return training_conversations(20_000, seed=7)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return make_questions()


# ---------------------------------------------------------------- the split
def test_training_never_shows_a_held_out_answer(training: list[Conversation]) -> None:
    shown = {turn.answer for conversation in training for turn in conversation.turns}
    assert not [answer for answer in shown if is_held_out(json.loads(answer))]


def test_questions_ask_for_held_out_answers(questions: list[Question]) -> None:
    asked = [q.answer for q in questions if q.category in ANSWER_IS_HELD_OUT]
    assert len(asked) == 660
    assert all(is_held_out(json.loads(answer)) for answer in asked)


def test_refused_requests_are_new_to_the_model(
    training: list[Conversation], questions: list[Question]
) -> None:
    seen = {turn.user for conversation in training for turn in conversation.turns}
    asked = {q.messages[-1]["content"] for q in questions if q.category in REQUEST_IS_HELD_OUT}
    assert asked & seen == {""}  # there is only one empty text


def test_about_one_answer_in_eight_is_held_out() -> None:
    rng = Random(1)
    timers = [draw_any_answer(rng, "unlock") for _ in range(8_000)]
    share = sum(map(is_held_out, timers)) / len(timers)
    assert share == pytest.approx(1 / HELD_OUT_ONE_IN, abs=0.015)


@pytest.mark.parametrize("split", ["training", "held_out"])
def test_drawn_answers_belong_to_the_split_asked_for(split: str) -> None:
    rng = Random(2)
    assert all(belongs_to(draw_answer(rng, split), split) for _ in range(500))  # type: ignore[arg-type]


# ---------------------------------------------------------------- wordings
def test_one_request_never_has_two_right_answers(training: list[Conversation]) -> None:
    answer_to: dict[str, str] = {}
    for conversation in training:
        if conversation.template is None and len(conversation.turns) == 1:
            (turn,) = conversation.turns
            assert answer_to.setdefault(turn.user, turn.answer) == turn.answer


def test_no_wording_of_a_time_means_two_times() -> None:
    rng = Random(3)
    time_of: dict[str, str] = {}
    for hour in range(24):
        for minute in ("00", "15", "30", "45"):
            time = f"{hour:02d}:{minute}"
            for said in {say_time(time, rng) for _ in range(100)}:
                assert time_of.setdefault(said, time) == time


def test_every_spelled_number_is_different() -> None:
    assert len({spell_number(number) for number in range(121)}) == 121


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (13, "thirteen"), (25, "twenty five"), (100, "one hundred")],
)
def test_numbers_are_spelled_as_people_do(number: int, words: str) -> None:
    assert spell_number(number) == words


def test_half_degrees_are_said_in_digits_or_in_words() -> None:
    rng = Random(4)
    assert {say_number(21.5, rng) for _ in range(50)} == {"21.5", "twenty one and a half"}


def test_an_answer_reads_back_as_it_was_written() -> None:
    rng = Random(5)
    for _ in range(500):
        answer = draw_any_answer(rng)
        read_back = json.loads(answer_text(answer))
        assert list(read_back.items()) == list(answer.items())


# ---------------------------------------------------------------- seeds and categories
def test_the_same_seed_draws_the_same_conversations() -> None:
    assert training_conversations(300, seed=11) == training_conversations(300, seed=11)


def test_another_seed_draws_other_conversations() -> None:
    assert training_conversations(300, seed=11) != training_conversations(300, seed=12)


def test_training_holds_every_category(training: list[Conversation]) -> None:
    counts = Counter(conversation.category for conversation in training)
    assert counts.keys() == CATEGORY_WEIGHTS.keys()
    assert min(counts.values()) > 200


def test_training_shows_every_wrong_template_but_the_held_out_ones(
    training: list[Conversation],
) -> None:
    names = {c.template.name for c in training if c.template is not None}
    assert names == {template.name for template in WRONG_TEMPLATES}
    assert names.isdisjoint(template.name for template in WRONG_TEMPLATES_HELD_OUT)


@pytest.mark.parametrize("category", sorted(CATEGORY_WEIGHTS))
def test_a_chat_ends_with_the_user(category: str) -> None:
    conversation = draw_conversation(Random(6), category, "training")
    assert conversation.messages()[-1]["role"] == "user"


@pytest.mark.parametrize(
    "template", [*WRONG_TEMPLATES, *WRONG_TEMPLATES_HELD_OUT], ids=lambda template: template.name
)
def test_a_wrong_template_renders_the_last_request(template: object) -> None:
    conversation = draw_bad_template(Random(7), template, "held_out")  # type: ignore[arg-type]
    assert conversation.template is not None
    rendered = conversation.template.render(conversation.messages())
    assert conversation.turns[-1].user in rendered
    assert json.loads(conversation.answer)["reason"] == "bad_template"


# ---------------------------------------------------------------- questions
def test_the_shipped_questions_are_what_the_code_draws(
    demo_questions: Path, questions: list[Question]
) -> None:
    assert read_questions(demo_questions) == questions


def test_questions_read_back_as_they_were_written(
    tmp_path: Path, questions: list[Question]
) -> None:
    write_questions(questions[:20], tmp_path / "questions.jsonl")
    assert read_questions(tmp_path / "questions.jsonl") == questions[:20]


def test_questions_have_ids_and_chats_of_their_own(questions: list[Question]) -> None:
    assert len(questions) == 856
    assert len({question.id for question in questions}) == 856
    assert len({json.dumps(question.messages) for question in questions}) == 856


def test_every_kind_of_expectation_is_used(questions: list[Question]) -> None:
    kinds = Counter(question.expectation["kind"] for question in questions)
    assert kinds.keys() == {"exact", "json", "json_schema", "regex", "contains"}
    assert min(kinds.values()) >= 10


def test_long_questions_hold_as_much_small_talk_as_their_name_says(
    questions: list[Question],
) -> None:
    for question in questions:
        if question.category.startswith("long_"):
            text = question.messages[-1]["content"]
            talk = sum(text.count(sentence) for sentence in SMALL_TALK)
            assert talk == int(question.category.removeprefix("long_"))


def test_a_schema_admits_its_answer_and_no_other() -> None:
    schema = schema_of({"intent": "timer_set", "minutes": 20})
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"intent": "timer_set", "minutes": 20})
    assert not validator.is_valid({"intent": "timer_set", "minutes": 21})
    assert not validator.is_valid({"intent": "timer_set"})
    assert not validator.is_valid({"intent": "timer_set", "minutes": 20, "room": "attic"})
