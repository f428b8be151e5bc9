"""Questions are put into filler, asked once each, and a loss that filler brings out is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.records import Expectation, Message, Question
from tasks.examine.filler import SENTENCES
from tasks.examine.lengths import (
    METRIC_NAMES,
    Asking,
    ask_reference,
    ask_variant,
    fill,
    length_metrics,
    length_notes,
)
from tasks.examine.protocol import LengthPlan, Protocol

PLAN = LengthPlan(questions=72, prompt_tokens=(128, 256, 512))


@dataclass(frozen=True)
class Said:
    tokens: list[int]
    stopped: bool = True


@dataclass
class Words:
    """A tokenizer whose tokens are words, and an engine that finds `code N` in short prompts."""

    reaches: int = 10_000
    stumbles_over: frozenset[str] = frozenset()
    rewords: bool = False
    context_length: int = 4096
    prompts: list[str] = field(default_factory=list)

    def render(self, messages: Sequence[Message]) -> str:
        return " ".join(message.content for message in messages)

    def encode(self, text: str) -> list[int]:
        self.prompts.append(text)
        return list(range(len(text.split())))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.encode(self.render(messages))

    def complete(self, prompt: Sequence[int], limit: int) -> Said:
        asked = self.prompts[-1]
        code = asked.split("code ")[1].split(".")[0]
        found = len(prompt) <= self.reaches and code not in self.stumbles_over
        return Said([int(code) if found else 999, len(prompt) if self.rewords else 0])

    def decode(self, tokens: Sequence[int]) -> str:
        return f"{tokens[0]}{' indeed' * tokens[1]}"


def question(number: int, content: str = "", **more: object) -> Question:
    text = content or f"tell me code {number}"
    return Question(
        id=f"q{number:03d}",
        category="c",
        messages=[Message(role="user", content=text)],
        expectation=Expectation(kind="regex", value=rf"{number}( indeed)*"),
    )


QUESTIONS = [question(number) for number in range(200)]


def asking(engine: Words, plan: LengthPlan = PLAN, level: float = 0.95) -> Asking:
    return Asking(
        engine=engine,
        tokenizer=Words(),
        unfilled={one.id: f"{int(one.id[1:])}" for one in QUESTIONS},
        limits={one.id: 8 for one in QUESTIONS},
        protocol=Protocol(length=plan, level=level),
        say=lambda line: None,
    )


def of_reference(
    engine: Words | None = None,
    plan: LengthPlan = PLAN,
    questions: Sequence[Question] = QUESTIONS,
    right: Sequence[str] | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    ids = [one.id for one in questions] if right is None else right
    return ask_reference(asking(engine or Words(), plan), questions, ids)


# ---------------------------------------------------------------- filling


@pytest.mark.parametrize("wanted", [64, 128, 512])
@pytest.mark.parametrize("depth", [0.1, 0.5, 0.9])
def test_question_stands_at_its_depth_in_a_prompt_of_the_wanted_length(
    wanted: int, depth: float
) -> None:
    filled = fill(question(7), wanted, depth, Words(), seed=0)
    words = filled.messages[0].content.split()
    assert wanted - 8 <= filled.prompt_tokens <= wanted
    assert words.index("7.") / len(words) == pytest.approx(depth, abs=0.1)


def test_filler_begins_elsewhere_for_each_question_and_is_the_same_again() -> None:
    texts = [fill(one, 128, 0.5, Words(), seed=0).messages[0].content for one in QUESTIONS[:20]]
    again = [fill(one, 128, 0.5, Words(), seed=0).messages[0].content for one in QUESTIONS[:20]]
    assert texts == again
    assert len({text.split(".")[0] for text in texts}) > 10


def test_question_that_ends_without_a_full_stop_gets_one_and_others_keep_theirs() -> None:
    assert "code 7. " in fill(question(7), 64, 0.5, Words(), seed=0).messages[0].content
    asked = question(7, "what is code 7?")
    assert "code 7? " in fill(asked, 64, 0.5, Words(), seed=0).messages[0].content


def test_system_turn_stays_as_it_is() -> None:
    system = Message(role="system", content="Be brief.")
    both = question(7).model_copy(update={"messages": [system, *question(7).messages]})
    assert fill(both, 64, 0.5, Words(), seed=0).messages[0] == system


def test_filler_asks_for_nothing() -> None:
    assert len(set(SENTENCES)) == len(SENTENCES) == 60
    assert all(sentence.endswith(".") and sentence.count(".") == 1 for sentence in SENTENCES)


# ---------------------------------------------------------------- what is asked


def test_each_question_is_asked_once_and_every_place_is_visited_alike() -> None:
    rows, notes = of_reference()
    assert notes == []
    assert len(rows) == rows["question_id"].nunique() == 72
    assert set(rows.groupby(["prompt_tokens_wanted", "depth"]).size()) == {8}
    assert rows["right"].all()
    assert rows["same_as_unfilled"].all()


def test_same_questions_are_drawn_again() -> None:
    assert of_reference()[0].equals(of_reference()[0])


def test_questions_of_several_turns_blank_ones_and_unanswered_ones_are_not_asked() -> None:
    turns = [Message(role="user", content="code 1"), Message(role="assistant", content="1")]
    several = question(1).model_copy(update={"messages": [*turns, *question(1).messages]})
    odd = [several, question(2, " \n"), question(3), question(4)]
    rows, _ = of_reference(questions=odd, right=["q001", "q002", "q004"])
    assert list(rows["question_id"]) == ["q004"]


def test_length_beyond_the_context_is_left_out_and_named() -> None:
    rows, notes = of_reference(Words(context_length=300))
    assert set(rows["prompt_tokens_wanted"]) == {128, 256}
    assert len(rows) == 72
    assert notes == ["no filled prompts of 512 tokens: the context has 300"]


def test_question_longer_than_a_length_is_asked_at_a_longer_one() -> None:
    long = [question(number, f"{'please ' * 200}code {number}") for number in range(50)]
    rows, _ = of_reference(questions=long)
    assert set(rows["prompt_tokens_wanted"]) == {256, 512}


def test_length_that_is_too_much_for_the_reference_ends_the_asking() -> None:
    engine = Words(reaches=300)
    rows, notes = of_reference(engine, LengthPlan(questions=72, prompt_tokens=(128, 512, 2048)))
    assert rows.groupby("prompt_tokens_wanted")["compared"].agg(["size", "all"]).T.to_dict() == {
        128: {"size": 72, "all": True},
        512: {"size": 24, "all": False},
    }
    assert "512, 2048 tokens are not compared" in notes[0]


def test_variant_is_asked_what_the_reference_was_asked_where_it_is_able() -> None:
    reference, _ = of_reference(Words(reaches=300))
    variant = ask_variant(asking(Words()), QUESTIONS, reference)
    compared = reference[reference["compared"]]
    for column in ("question_id", "prompt_tokens_wanted", "depth", "prompt_tokens"):
        assert list(variant[column]) == list(compared[column])


# ---------------------------------------------------------------- numbers


def measured(engine: Words, reference: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    return ask_variant(asking(engine, level=level), QUESTIONS, reference)


@pytest.mark.parametrize(("questions", "level"), [(72, 0.95), (96, 0.975)])
def test_unchanged_model_is_surely_within_the_margin_of_fp16(questions: int, level: float) -> None:
    plan = PLAN.model_copy(update={"questions": questions})
    reference, _ = of_reference(plan=plan)
    found = length_metrics(
        reference, measured(Words(), reference), Protocol(length=plan, level=level)
    )
    assert set(found) == set(METRIC_NAMES)
    for name in ("lengths.found_delta", "lengths.filler_same_delta"):
        change = found[name]
        assert change.value == 0
        assert change.ci95 is not None
        assert change.ci95[0] > -0.06


def test_variant_that_is_lost_in_long_filler_is_surely_beyond_every_margin() -> None:
    reference, _ = of_reference()
    variant = measured(Words(reaches=200), reference)
    found = length_metrics(reference, variant, Protocol())
    change = found["lengths.found_delta"]
    assert change.value == pytest.approx(-48 / 72)
    assert change.ci95 is not None
    assert change.ci95[1] < -0.2
    assert found["lengths.found"].value == pytest.approx(24 / 72)
    [note] = length_notes(reference, variant)
    assert note.startswith("lost in filler: 48 of 72 questions, such as q")
    assert "of 256 tokens" in note


def test_rewording_is_seen_apart_from_being_right() -> None:
    reference, _ = of_reference()
    found = length_metrics(reference, measured(Words(rewords=True), reference), Protocol())
    assert found["lengths.found_delta"].value == 0
    assert found["lengths.filler_same_delta"].value == -1


def test_nobody_is_measured_by_saying_the_same_where_the_reference_never_does() -> None:
    reference, _ = of_reference(Words(rewords=True))
    found = length_metrics(reference, measured(Words(rewords=True), reference), Protocol())
    assert not found["lengths.filler_same_delta"].applies
    assert found["lengths.found_delta"].value == 0


def test_variant_has_nothing_to_lose_where_the_reference_never_finds_anything() -> None:
    reference, _ = of_reference(Words(reaches=50))
    found = length_metrics(reference, measured(Words(), reference), Protocol())
    assert found["lengths.found_reference"].value == 0
    for name in METRIC_NAMES[1:]:
        assert not found[name].applies
        assert "finds less than 75%" in found[name].method


def test_no_question_that_can_be_filled_is_said_and_not_measured() -> None:
    reference, _ = of_reference(questions=[], right=[])
    found = length_metrics(reference, measured(Words(), reference), Protocol())
    assert all(not measurement.applies for measurement in found.values())
    assert set(found) == set(METRIC_NAMES)


def test_single_lost_question_is_named_with_its_place() -> None:
    reference, _ = of_reference()
    lost = reference["question_id"].iloc[5]
    engine = Words(stumbles_over=frozenset({str(int(lost[1:]))}))
    [note] = length_notes(reference, measured(engine, reference))
    assert note.startswith(f"lost in filler: 1 of 72 questions, such as {lost} at ")


@pytest.mark.parametrize("reaches", [0, 50])
def test_frames_in_which_nothing_is_compared_survive_the_disk(tmp_path: Path, reaches: int) -> None:
    questions = QUESTIONS if reaches else []
    rows, _ = of_reference(Words(reaches=reaches), questions=questions)
    for name, frame in (("reference", rows), ("variant", measured(Words(), rows))):
        frame.to_parquet(tmp_path / name)
    before, after = (pd.read_parquet(tmp_path / name) for name in ("reference", "variant"))
    assert set(length_metrics(before, after, Protocol())) == set(METRIC_NAMES)
    assert length_notes(before, after) == []
    assert measured(Words(), before).empty
