"""Changed answers are counted in pairs, with intervals that are never empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from tasks.core.errors import QuestionsRefused
from tasks.core.records import Answer, Expectation, Message, Question
from tasks.examine.answer_metrics import METRIC_NAMES, answer_metrics, category_frame
from tasks.examine.answers import (
    answer_notes,
    answer_questions,
    answers_frame,
    first_difference,
)
from tasks.examine.generation import Completion
from tasks.examine.metrics import Metrics
from tasks.examine.protocol import Protocol

ASKED = [
    Question(
        id=f"q{number}",
        category="even" if number % 2 == 0 else "odd",
        messages=[Message(role="user", content=str(number))],
        expectation=Expectation(kind="json", value=number),
    )
    for number in range(10)
]


PROTOCOL = Protocol(bootstrap_samples=200)


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


def ask(questions: Sequence[Question], **said: str) -> list[Answer]:
    engine: Any = Parrot(**said)
    limits = {question.id: 40 for question in questions}
    return answer_questions(engine, questions, limits, lambda line: None)


def rows(**said: str) -> pd.DataFrame:
    return answers_frame(ASKED, ask(ASKED, **said))


def metrics_of(reference: pd.DataFrame, **said: str) -> Metrics:
    """Measure a variant that says this against a reference."""
    variant = answers_frame(ASKED, ask(ASKED, **said), reference)
    return answer_metrics(reference, variant, PROTOCOL)


def values(reference: pd.DataFrame, **said: str) -> dict[str, float | None]:
    return {name: found.value for name, found in metrics_of(reference, **said).items()}


def test_unchanged_answers_have_no_flip_and_still_an_interval() -> None:
    metrics = metrics_of(rows())
    assert tuple(metrics) == METRIC_NAMES
    assert metrics["answers.right"].value == metrics["answers.recovery"].value == 1
    assert metrics["answers.same_output"].value == metrics["answers.first_divergence"].value == 1
    assert metrics["answers.mcnemar_p"].value == 1
    for name in ("delta", "recovery", "flip_rate", "stopped_ratio", "json_delta", "loops_delta"):
        low, high = metrics[f"answers.{name}"].ci95 or (0.0, 0.0)
        assert low < high, name


def test_gains_do_not_hide_losses() -> None:
    metrics = values(rows(q1="no", q3="no"), q2="no", q4="no")
    assert metrics["answers.delta"] == 0
    assert metrics["answers.flip_rate"] == 0.4
    assert metrics["answers.harm"] == 0.2
    assert metrics["answers.mcnemar_p"] == 1


def test_one_sided_change_has_a_small_p() -> None:
    harmed = dict.fromkeys([question.id for question in ASKED[:6]], "no")
    p = metrics_of(rows(), **harmed)["answers.mcnemar_p"]
    assert p.value == pytest.approx(2 / 2**6)
    assert p.ci95 is None


def test_broken_format_empty_answers_and_running_on_are_seen() -> None:
    metrics = values(rows(), q0="{", q1="", q2="2" * 41)
    assert metrics["answers.format_delta"] == pytest.approx(-0.2)
    assert metrics["answers.json_valid"] == pytest.approx(0.8)
    assert metrics["answers.json_delta"] == pytest.approx(-0.2)
    assert metrics["answers.empty"] == 1
    assert metrics["answers.stopped_ratio"] == pytest.approx(0.9)
    assert metrics["answers.loops"] == metrics["answers.loops_delta"] == pytest.approx(0.1)
    assert metrics["answers.recovery"] == pytest.approx(0.7)


def test_json_of_another_shape_is_valid_json_but_not_of_the_domains_schema() -> None:
    metrics = values(rows(), q0='"0"', q1='{"a": 1}')
    assert metrics["answers.json_delta"] == 0
    assert metrics["answers.schema_delta"] == pytest.approx(-0.2)


def test_json_is_not_applicable_where_no_question_asks_for_it() -> None:
    expecting = Expectation(kind="contains", value="1")
    asked = [question.model_copy(update={"expectation": expecting}) for question in ASKED]
    reference = answers_frame(asked, ask(asked))
    metrics = answer_metrics(reference, answers_frame(asked, ask(asked), reference), PROTOCOL)
    assert not metrics["answers.json_delta"].applies
    assert not metrics["answers.schema_valid"].applies
    assert metrics["answers.format_delta"].applies


def test_same_text_from_other_tokens_is_another_output() -> None:
    answers = ask(ASKED)
    changed = answers[0].model_copy(update={"tokens": [*answers[0].tokens, 7]})
    reference = answers_frame(ASKED, answers)
    variant = answers_frame(ASKED, [changed, *answers[1:]], reference)
    metrics = answer_metrics(reference, variant, PROTOCOL)
    assert metrics["answers.same_output"].value == pytest.approx(0.9)
    assert metrics["answers.first_divergence"].value == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("before", "after", "index"),
    [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1, 2], [1, 2, 3], 2), ([], [1], 0)],
)
def test_first_difference_counts_a_longer_answer(
    before: list[int], after: list[int], index: int | None
) -> None:
    assert first_difference(before, after) == index


def test_end_of_sequence_token_does_not_hide_a_cycle() -> None:
    answer = ask(ASKED[:1])[0]
    looping = [
        answer.model_copy(update={"tokens": [5] * 16, "stopped": False}),
        answer.model_copy(update={"tokens": [*[5] * 16, 2], "stopped": True}),
        answer.model_copy(update={"tokens": [*[5] * 15, 2], "stopped": True}),
    ]
    rows = answers_frame([ASKED[0]] * 3, looping)
    assert list(rows["loop"]) == [True, True, False]
    assert list(rows["finish"]) == ["length", "eos", "eos"]


def test_refusals_are_counted_both_ways_and_letters_of_another_script_once() -> None:
    reference = rows(q1="I cannot do that", q2="two")
    metrics = values(reference, q1="1", q3="I'm sorry", q4="I won't", q2="\u0434\u0432\u0430")
    assert metrics["answers.refusals"] == 0.2
    assert metrics["answers.refusals_delta"] == pytest.approx(0.1)
    assert metrics["answers.over_refusals"] == 0.2
    assert metrics["answers.missed_refusals"] == 0.1
    assert metrics["answers.wrong_script"] == 1


def test_ratio_over_a_reference_that_is_never_right_is_not_measured() -> None:
    wrong = rows(**{question.id: "no" for question in ASKED})
    recovery = metrics_of(wrong)["answers.recovery"]
    assert (recovery.value, recovery.final) == (None, True)


def test_two_looks_widen_every_interval_on_questions() -> None:
    reference = rows()
    variant = answers_frame(ASKED, ask(ASKED, q1="no"), reference)
    once = answer_metrics(reference, variant, PROTOCOL)
    twice = answer_metrics(reference, variant, PROTOCOL.model_copy(update={"level": 0.975}))
    for name in set(METRIC_NAMES) - {"answers.first_divergence"}:  # of 10 questions, bootstrapped
        if (narrow := once[name].ci95) is not None:
            low, high = twice[name].ci95 or narrow
            assert high - low > narrow[1] - narrow[0], name


def test_each_category_has_its_own_row() -> None:
    found = category_frame(rows(), rows(q1="77", q3="{")).set_index("category")
    assert found.loc["odd", "right"] == pytest.approx(0.6)
    assert found["delta_low"]["odd"] < -0.4 < found["delta_high"]["odd"]
    assert found["harm"].to_dict() == found["flips"].to_dict() == {"even": 0, "odd": 2}
    assert found["format_valid"]["odd"] == pytest.approx(0.8)


def by_category(lost: dict[str, int], *, each: int = 40) -> Metrics:
    """Measure a variant that gets so many of a category's questions wrong, all right before."""
    asked = [
        ASKED[0].model_copy(update={"id": f"{category}{number}", "category": category})
        for category in lost
        for number in range(3 if category == "rare" else each)
    ]
    given = ask(asked)
    worse = [
        answer.model_copy(update={"right": int(answer.question_id[4:]) >= lost[question.category]})
        for question, answer in zip(asked, given, strict=True)
    ]
    reference = answers_frame(asked, given)
    return answer_metrics(reference, answers_frame(asked, worse, reference), PROTOCOL)


@pytest.mark.parametrize(("lost", "proven"), [(0, False), (5, False), (20, True)])
def test_worst_category_is_below_the_bound_only_when_that_is_proven(
    lost: int, proven: bool
) -> None:
    metrics = by_category({"even": 0, "odd_": lost})
    delta, bound = (metrics[f"answers.worst_category_{end}"] for end in ("delta", "bound"))
    assert delta.value == pytest.approx(-lost / 40)
    assert bound.ci95 is None
    assert bound.value == (delta.ci95 or (0, 0))[1]
    assert (bound.value < -0.1) is proven


def test_worst_category_is_the_surest_and_not_the_one_with_the_largest_change() -> None:
    found = by_category({"odd_": 20, "rare": 3})["answers.worst_category_delta"]
    assert found.value == -0.5
    assert "'odd_', of 2 categories" in found.method


def test_more_categories_make_each_of_them_less_sure() -> None:
    few, more = by_category({"odd_": 20}), by_category({"odd_": 20, "even": 0, "some": 0})
    bounds = [found["answers.worst_category_bound"].value or 0 for found in (few, more)]
    assert bounds[0] < bounds[1] < 0


def test_notes_show_both_answers_and_count_the_rest() -> None:
    reference = rows()
    harmed = {question.id: "no" for question in ASKED[:7]}
    notes = answer_notes(reference, answers_frame(ASKED, ask(ASKED, **harmed), reference))
    assert notes[0].startswith("q0 (even): the reference says '0', which is right")
    assert notes[5] == "and 2 more questions turned from right to wrong"


def test_notes_name_cycles_and_refusals() -> None:
    reference = rows(q1="1" * 30)
    variant = answers_frame(ASKED, ask(ASKED, q1="1" * 30, q2="2" * 30, q3="I cannot"), reference)
    notes = answer_notes(reference, variant)
    assert "answers that end in a cycle: 1, such as q2" in notes
    assert "refusals where the reference has none: 1, such as q3" in notes


def test_answers_end_with_the_context_and_longer_questions_are_refused() -> None:
    engine: Any = Parrot()
    engine.context_length = 2
    assert answer_questions(engine, ASKED[:1], {"q0": 99}, lambda line: None)[0].right
    assert engine.limits == [1]
    engine.context_length = 1
    with pytest.raises(QuestionsRefused, match="question 'q0' is longer"):
        answer_questions(engine, ASKED[:1], {"q0": 99}, lambda line: None)


def test_prompt_that_a_template_renders_to_nothing_has_no_answer() -> None:
    silent = ASKED[0].model_copy(update={"messages": [Message(role="user", content="")]})
    found = ask([silent])[0]
    assert (found.text, found.tokens, found.stopped, found.right) == ("", [], False, False)
