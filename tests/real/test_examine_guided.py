"""Constrained decoding of ONNX Runtime GenAI on random weights, where nothing ends by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.core.questions import is_json
from tasks.core.records import Expectation, Message, Question
from tasks.examine.generation import Completion, Engine, Guidance
from tasks.examine.guided import examine_guided
from tasks.examine.metrics import Metrics
from tasks.examine.protocol import Protocol
from tests.examine_subjects import changed_copy, edit_json
from tests.foundry_variants import tiny_folder

pytestmark = pytest.mark.real

PROMPTS = ([5, 6, 7, 8], [40, 41, 90], [300, 20, 10, 11, 200])
DIGIT = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TIGHT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_folder())


def question(kind: Any, value: Any, *, name: str = "q", user: str = "Hello!") -> Question:
    return Question(
        id=name,
        category="c",
        messages=[Message(role="user", content=user)],
        expectation=Expectation(kind=kind, value=value),
    )


def examine(
    engine: Engine, *asked: Question, limit: int = 120
) -> tuple[Metrics, list[str], pd.DataFrame]:
    unguided = pd.DataFrame({"question_id": [one.id for one in asked], "text": "", "right": False})
    limits = dict.fromkeys((one.id for one in asked), limit)
    reference = unguided.assign(stopped=False)
    return examine_guided(engine, asked, limits, unguided, reference, Protocol(), lambda line: None)


def under(engine: Engine, schema: dict[str, Any]) -> list[Completion]:
    guidance = Guidance("json_schema", json.dumps(schema))
    return [engine.complete(prompt, 150, guidance=guidance) for prompt in PROMPTS]


DOMAIN = [
    {"name": "kitchen", "on": True},
    {"level": 12, "note": None},
    {"celsius": 21.5, "rooms": ["hall", "attic"]},
    {"when": {"hour": 7, "day": "monday"}, "list": [{"a": 1}, {"b": -0.25}]},
]


def test_random_weights_give_the_domains_json_every_time(engine: Engine) -> None:
    users = ["Hello!", "What is the temperature?", "Play some music.", "1984", "café?", "lock it"]
    asked = [
        question("json", DOMAIN[number % 4], name=f"q{number}", user=f"{user} {number}")
        for number, user in enumerate(users * 4)
    ]
    metrics, notes, rows = examine(engine, *asked)
    assert metrics["guided.invalid"].value == 0, notes
    assert set(rows["finish"]) == {"eos"}
    assert metrics["guided.right"].value == 0


def test_without_its_white_space_option_the_engine_writes_white_space_for_ever(
    engine: Engine,
) -> None:
    assert not any(found.stopped for found in under(engine, DIGIT))
    pattern = {**DIGIT, "x-guidance": {"whitespace_pattern": " "}}
    assert not any(found.stopped for found in under(engine, pattern))
    tight = under(engine, {**DIGIT, "x-guidance": TIGHT})
    assert all(found.stopped and is_json(engine.decode(found.tokens)) for found in tight)


def test_separators_are_taken_literally_and_not_as_patterns(engine: Engine) -> None:
    found = under(engine, {**DIGIT, "x-guidance": {**TIGHT, "key_separator": ": ?"}})
    assert all('"a": ?' in engine.decode(each.tokens) for each in found)


def test_keys_come_in_the_order_of_the_schema(engine: Engine) -> None:
    asked = [
        question("json", {"zebra": 1, "ant": 2}),
        question("json_schema", DIGIT | {"required": ["b", "a"]}, name="own"),
    ]
    _, _, rows = examine(engine, *asked)
    assert [list(json.loads(text)) for text in rows["text"]] == [["zebra", "ant"], ["a", "b"]]


def test_schema_of_a_question_that_has_no_end_is_not_held_against_the_variant(
    engine: Engine,
) -> None:
    endless = question("json_schema", {"type": "string", "minLength": 500}, name="endless")
    ends = question("json_schema", {"type": "boolean"}, name="ends")
    metrics, notes, _ = examine(engine, endless, ends, limit=40)
    assert (metrics["guided.invalid"].value, metrics["guided.invalid"].n) == (0, 1)
    assert "1 cut short under a schema" in metrics["guided.invalid"].method
    assert "cut short" in notes[0]


def test_where_no_answer_ended_validity_is_not_measured(engine: Engine) -> None:
    endless = {"type": "string", "minLength": 500}
    found = examine(engine, question("json_schema", endless), limit=40)[0]["guided.invalid"]
    assert (found.value, found.n, found.applies) == (None, 0, True)
    assert found.method.startswith("no constrained answer ended")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("regex", "(?=a)abc"),
        ("regex", r"(a)\1"),
        ("json_schema", {"not": {"type": "string"}}),
        ("json_schema", {"type": "array", "uniqueItems": True}),
    ],
)
def test_what_the_engine_cannot_constrain_by_is_left_out_and_named(
    engine: Engine, kind: str, value: Any
) -> None:
    fine = question("regex", "[a-c]{3}", name="fine")
    metrics, notes, rows = examine(engine, question(kind, value, name="odd"), fine)
    assert metrics["guided.invalid"].value == 0
    assert list(rows["question_id"]) == ["fine"]
    assert "left out: odd (guidance refused: Error creating grammar" in notes[0]


@pytest.mark.parametrize("pattern", [r"\d{4}", "^on|off$", "(?i)yes", r"[\w ]{3,9}", "(?s).{5}"])
def test_pattern_that_both_dialects_know_is_met(engine: Engine, pattern: str) -> None:
    metrics, notes, rows = examine(engine, question("regex", pattern))
    assert metrics["guided.invalid"].value == 0, (notes, rows["text"][0])


def test_wrong_end_of_sequence_leaves_text_behind_the_json(tmp_path: Path) -> None:
    def wrong_eos(target: Path) -> None:
        edit_json(
            target / "genai_config.json", lambda config: config["model"].update(eos_token_id=[5])
        )

    faulty = Engine(changed_copy(tiny_folder(), tmp_path / "wrong-eos", wrong_eos))
    metrics, notes, _ = examine(faulty, question("json", {"a": 1}))
    assert metrics["guided.invalid"].value == 1
    assert "which is not valid" in notes[0]
