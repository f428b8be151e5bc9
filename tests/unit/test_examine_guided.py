"""Constrained answers are judged by their form; what a constraint gives away is no right answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest

from tasks.core.errors import VariantUnusable
from tasks.core.records import Expectation, Message, Question
from tasks.examine.generation import Completion, Guidance
from tasks.examine.guided import COLUMNS, METRIC_NAMES, examine_guided, separators
from tasks.examine.metrics import Metrics
from tasks.examine.protocol import Protocol

SCHEMA = {"type": "object", "properties": {"z": {"const": 1}, "a": {"const": 2}}}
RIGHT = {"json": '{"b": 1, "a": "x"}', "json_schema": '{"z": 1, "a": 2}', "regex": "ab"}


def question(kind: Any, name: str = "", **more: Any) -> Question:
    values = {"json": {"b": 1, "a": "x"}, "json_schema": SCHEMA, "regex": "a(?:b)", "exact": "yes"}
    return Question(
        id=name or kind,
        category="c",
        messages=[Message(role="user", content=kind)],
        expectation=Expectation(kind=kind, value=values[kind]),
        **more,
    )


ASKED = [question(kind) for kind in ("json", "json_schema", "regex", "exact")]


class Obedient:
    """An engine that answers each kind as it is told, and refuses the constraints it is told to."""

    context_length = 100

    def __init__(
        self, said: Mapping[str, str] | None = None, *, refuses: str = "\0", fails: bool = False
    ) -> None:
        self.said = {**RIGHT, **(said or {})}
        self.refuses = refuses
        self.fails = fails
        self.guided_by: dict[str, Guidance] = {}
        self.limits: set[int] = set()

    def render(self, messages: list[Message]) -> str:
        return messages[-1].content

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))

    def guidance_problem(self, guidance: Guidance) -> str | None:
        return "not supported" if self.refuses in guidance.text else None

    def complete(self, prompt: list[int], limit: int, *, guidance: Guidance) -> Completion:
        if self.fails:
            raise VariantUnusable("decoding failed: compute_mask() called after stop")
        kind = self.decode(prompt)
        self.guided_by[kind] = guidance
        self.limits.add(limit)
        tokens = self.encode(self.said[kind])
        return Completion(tokens[:limit], stopped=len(tokens) < limit)


def examine(
    engine: Any,
    asked: list[Question] = ASKED,
    limit: int = 30,
    right: bool = True,
    reference_says: Mapping[str, str] | None = None,
) -> tuple[Metrics, list[str], pd.DataFrame]:
    limits = {one.id: limit - number for number, one in enumerate(asked)}
    unguided = pd.DataFrame(
        {"question_id": [one.id for one in asked], "text": "yes", "right": right}
    )
    said = reference_says or {}
    reference = pd.DataFrame(
        {
            "question_id": [one.id for one in asked],
            "text": [said.get(one.id, "") for one in asked],
            "stopped": [one.id in said for one in asked],
        }
    )
    return examine_guided(engine, asked, limits, unguided, reference, Protocol(), lambda line: None)


def test_each_kind_is_constrained_by_its_own_and_json_by_keys_and_types() -> None:
    engine = Obedient()
    metrics, notes, rows = examine(engine)
    assert tuple(metrics) == METRIC_NAMES
    assert metrics["guided.invalid"].value == 0
    assert notes == []
    assert tuple(rows.columns) == COLUMNS
    assert engine.guided_by["regex"] == Guidance("regex", "a(?:b)")
    assert list(json.loads(engine.guided_by["json_schema"].text)["properties"]) == ["z", "a"]
    domain = json.loads(engine.guided_by["json"].text)
    assert list(domain["properties"]) == ["b", "a"]
    assert domain["x-guidance"]["whitespace_flexible"] is False
    assert "exact" not in engine.guided_by


def test_all_have_room_for_the_longest_answer_within_the_context() -> None:
    engine = Obedient()
    examine(engine)
    assert engine.limits == {30}
    engine = Obedient()
    engine.context_length = 33
    examine(engine)
    assert engine.limits == {33 - len("json"), 33 - len("json_schema"), 33 - len("regex")}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"json": '{"b": 1, "a": "x"}&'}, "by the domain's schema, the variant says"),
        ({"json": '{"b": 1, "a": "' + "x" * 40}, "cut short"),
        ({"json": '{"b": "1", "a": "x"}'}, "which is not valid"),
        ({"json_schema": '{"z": 2}'}, "by a schema of its own"),
        ({"regex": "abb"}, "by a pattern"),
    ],
)
def test_answer_that_breaks_its_constraint_is_invalid_and_named(
    said: dict[str, str], words: str
) -> None:
    metrics, notes, rows = examine(Obedient(said))
    assert metrics["guided.invalid"].value == 1
    assert metrics["guided.invalid"].n == 3
    assert words in notes[0]
    assert (~rows["valid"]).sum() == 1


def test_valid_answer_that_runs_into_the_limit_is_invalid() -> None:
    metrics, _, rows = examine(Obedient(), limit=len(RIGHT["json"]))
    assert rows.set_index("question_id").loc["json", "finish"] == "length"
    assert metrics["guided.invalid"].value == 1


OWN = ("json_schema", "regex")
LONG = {"json_schema": '{"z": 1, "a": 2' + " " * 40, "regex": "ab" * 40}


def test_answers_cut_short_validate_nothing() -> None:
    found = examine(Obedient(LONG), ASKED[1:3])[0]["guided.invalid"]
    assert (found.value, found.n, found.applies, found.final) == (None, 0, True, True)
    assert found.method.startswith("no constrained answer ended")
    one = examine(Obedient({"regex": LONG["regex"]}), ASKED[1:3])[0]["guided.invalid"]
    assert (one.value, one.n) == (0, 1)


def test_answer_cut_short_is_invalid_where_the_reference_kept_the_form_and_stopped() -> None:
    kept = {name: RIGHT[name] for name in OWN}
    found = examine(Obedient(LONG), ASKED[1:3], reference_says=kept)[0]["guided.invalid"]
    assert (found.value, found.n) == (2, 2)
    otherwise = dict.fromkeys(OWN, "I can not do that.")
    found = examine(Obedient(LONG), ASKED[1:3], reference_says=otherwise)[0]["guided.invalid"]
    assert (found.value, found.n) == (None, 0)


def test_right_is_counted_only_where_the_constraint_does_not_give_it_away() -> None:
    metrics, _, _ = examine(Obedient({"json": '{"b": 2, "a": "x"}'}))
    assert metrics["guided.invalid"].value == 0
    assert metrics["guided.right"].value == 0
    assert metrics["guided.right"].n == 1
    assert metrics["guided.right_delta"].value == -1
    gained = examine(Obedient(), right=False)[0]
    assert gained["guided.right_delta"].value == 1


def test_without_a_question_of_the_kind_json_only_validity_is_measured() -> None:
    metrics, _, _ = examine(Obedient(), ASKED[1:])
    assert metrics["guided.invalid"].value == 0
    assert not metrics["guided.right"].applies
    assert not metrics["guided.right_delta"].applies


def test_nothing_applies_where_no_question_has_a_form() -> None:
    metrics, notes, rows = examine(Obedient(), ASKED[3:])
    assert not any(found.applies for found in metrics.values())
    assert "none of the 1 questions" in metrics["guided.invalid"].method
    assert (notes, len(rows)) == ([], 0)


def test_constraint_that_the_engine_does_not_know_is_left_out_and_named() -> None:
    metrics, notes, rows = examine(Obedient(refuses="(?:"))
    assert metrics["guided.invalid"].n == 2
    assert "regex" not in list(rows["question_id"])
    assert notes == ["1 questions can't be constrained and were left out: regex (not supported)"]
    metrics, _, _ = examine(Obedient(refuses="(?:"), [ASKED[2]])
    assert not metrics["guided.invalid"].applies


@pytest.mark.parametrize("engine", [Obedient(fails=True), Obedient(refuses="")])
def test_engine_that_fails_is_a_finding_without_a_number(engine: Obedient) -> None:
    metrics, notes, rows = examine(engine)
    assert all(found.applies and found.value is None for found in metrics.values())
    assert notes[0].startswith("constrained decoding failed: ")
    assert len(rows) == 0


def test_no_more_than_the_sample_is_asked() -> None:
    asked = [question("json", f"q{number}") for number in range(9)]
    unguided = pd.DataFrame(
        {"question_id": [one.id for one in asked], "text": "yes", "right": True}
    )
    protocol = Protocol(guided_max_questions=4)
    limits = dict.fromkeys((one.id for one in asked), 30)
    engine: Any = Obedient()
    reference = unguided.assign(stopped=True)
    metrics, _, rows = examine_guided(
        engine, asked, limits, unguided, reference, protocol, lambda line: None
    )
    assert len(rows) == 4
    assert "4 of 9 questions with a form" in metrics["guided.invalid"].method


@pytest.mark.parametrize(
    ("answers", "style"),
    [
        ([], (", ", ": ")),
        (['{"b":1,"a":"x"}'], (",", ":")),
        (['{"b": 1, "a": "x"}'], (", ", ": ")),
        (['{"b":1,"a":"x"}', '{"b": 1, "a": "x"}', '{"a":"x","b":1}'], (",", ":")),
        (['{\n  "b": 1,\n  "a": "x"\n}'], (", ", ": ")),
    ],
)
def test_separators_are_those_of_the_ideal_answers(
    answers: list[str], style: tuple[str, str]
) -> None:
    asked = [question("json", str(number), answer=text) for number, text in enumerate(answers)]
    assert separators([*asked, question("exact", answer="yes")], []) == style


@pytest.mark.parametrize(
    ("said", "style"),
    [
        (["yes", '{"b":1,"a":"x"}'], (",", ":")),
        (['{"b": 1, "a": "x"}'], (", ", ": ")),
        (["1", "{"], (", ", ": ")),
    ],
)
def test_without_an_ideal_answer_the_model_shows_its_separators(
    said: list[str], style: tuple[str, str]
) -> None:
    assert separators(ASKED, said) == style
    assert separators([question("json", answer='{"b": 1, "a": "x"}')], said) == (", ", ": ")


def test_prompt_that_a_template_renders_to_nothing_is_an_invalid_answer() -> None:
    silent = ASKED[0].model_copy(update={"messages": [Message(role="user", content="")]})
    assert examine(Obedient(), [silent])[0]["guided.invalid"].value == 1
