"""Forms of JSON, cycles, scripts and refusals are told from answers that only look like them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.core.questions import satisfies_schema
from tasks.core.records import Expectation, Message, Question
from tasks.examine.answer_form import (
    MOST_FORMS,
    JsonForms,
    ends_in_cycle,
    foreign_scripts,
    is_refusal,
)


def question(value: Any, *, kind: Any = "json", category: str = "a", **more: Any) -> Question:
    return Question(
        id=json.dumps(value),
        category=category,
        messages=[Message(role="user", content="?")],
        expectation=Expectation(kind=kind, value=value),
        **more,
    )


def forms(*values: Any) -> JsonForms:
    return JsonForms.of([question(value) for value in values])


def bounded(*values: Any) -> Any:
    return forms(*values).bounded_schema(question(values[0]))


def accepts(found: JsonForms, text: str) -> bool:
    schema = found.schema(question(0))
    assert schema is not None
    return satisfies_schema(schema, text)


# ---------------------------------------------------------------- JSON


def test_forms_are_keys_and_types_and_never_values() -> None:
    found = forms({"room": "attic", "level": 3}, {"room": "hall", "level": 9}, {"door": "side"})
    assert found.count == 2
    assert "attic" not in json.dumps(dict(found.bounded))
    assert accepts(found, '{"level": 1, "room": "a room that nobody named, however long"}')
    assert accepts(found, '{"door": "front"}')


@pytest.mark.parametrize(
    "text",
    [
        '{"room": "attic"}',
        '{"room": "attic", "level": 3, "more": 1}',
        '{"room": "attic", "level": "3"}',
        '{"room": "attic", "level": 3}&',
        '["attic"]',
        "attic",
    ],
)
def test_answer_of_another_form_is_seen(text: str) -> None:
    assert not accepts(forms({"room": "attic", "level": 3}), text)


def test_keys_keep_the_order_of_the_ideal_answer() -> None:
    asked = question({"b": 1, "a": 2}, answer='{"a": 2, "b": 1}')
    schema = JsonForms.of([asked]).bounded_schema(asked) or {}
    assert list(schema["properties"]) == schema["required"] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        (["four"], {"type": "string", "maxLength": 8}),
        ([""], {"type": "string", "maxLength": 1}),
        ([7, -81], {"type": "integer", "minimum": -999, "maximum": 999}),
        (
            [21.5, 3.25],
            {"type": "number", "minimum": -999, "maximum": 999, "multipleOf": 0.01},
        ),
        ([1e-9], {"type": "number", "minimum": -99, "maximum": 99}),
        ([float("inf")], {"type": "number"}),
        ([True], {"type": "boolean"}),
        ([None], {"type": "null"}),
        ([[]], {"type": "array", "maxItems": 0}),
        (
            [[True], []],
            {"type": "array", "maxItems": 2, "items": {"type": "boolean"}},
        ),
    ],
)
def test_every_type_is_bounded_so_that_it_ends(values: list[Any], schema: Any) -> None:
    assert bounded(*values) == schema


def test_items_of_all_arrays_are_one_choice() -> None:
    items = bounded({"x": [1]}, {"x": ["a", None]})["properties"]["x"]["items"]
    assert [item["type"] for item in items["anyOf"]] == ["integer", "string", "null"]


def test_bounds_are_not_asked_of_an_answer_even_where_a_key_is_named_like_one() -> None:
    found = forms({"maximum": "four", "items": [1]})
    assert accepts(found, '{"maximum": "longer than eight", "items": [12345, 2, 3, 4]}')
    assert not accepts(found, '{"items": [1]}')


def test_whole_number_meets_a_form_with_decimals() -> None:
    assert accepts(forms({"celsius": 21.5}), '{"celsius": 21}')
    assert not accepts(forms({"celsius": 21}), '{"celsius": 21.5}')


def test_many_forms_are_one_schema_a_category() -> None:
    one = [question({f"k{number}": 1}) for number in range(MOST_FORMS)]
    assert not JsonForms.of(one).by_category
    found = JsonForms.of([*one, question({"other": 1}, category="b")])
    assert found.by_category
    assert found.schema(question(0, category="b")) == {
        "type": "object",
        "properties": {"other": {"type": "integer"}},
        "required": ["other"],
        "additionalProperties": False,
    }


def test_questions_with_a_schema_have_their_own_and_others_none() -> None:
    found = forms({"a": 1})
    own = question({"type": "integer"}, kind="json_schema")
    assert found.schema(own) == {"type": "integer"}
    assert found.bounded_schema(own) is None
    assert found.schema(question("x", kind="contains")) is None


# ---------------------------------------------------------------- cycles


@pytest.mark.parametrize("period", [1, 2, 5, 6, 32])
def test_cycle_is_found_after_three_rounds_and_sixteen_tokens(period: int) -> None:
    start, cycle = [900, 901], list(range(period))
    rounds = max(3, -(-16 // period))
    assert ends_in_cycle(start + cycle * rounds)
    assert ends_in_cycle(start + cycle * rounds + cycle[: period // 2])
    assert not ends_in_cycle(start + cycle * (rounds - 1))
    assert not ends_in_cycle([*cycle * rounds, 900])


@pytest.mark.parametrize("tokens", [[], [1], [1, 2, 3] * 4, list(range(33)) * 3, list(range(64))])
def test_short_repeats_and_long_texts_are_no_cycle(tokens: list[int]) -> None:
    assert not ends_in_cycle(tokens)


# ---------------------------------------------------------------- scripts and refusals


@pytest.mark.parametrize(
    ("text", "known", "foreign"),
    [
        ("the light is on", ["turn it on"], set()),
        ("the light is \u5f00\u7740 on", ["turn it on"], {"CJK"}),
        ("\u0441\u0432\u0435\u0442", ["light"], {"CYRILLIC"}),
        ("\u0441\u0432\u0435\u0442", ["light", "\u0434\u0430"], set()),
        ("\u306f\u3044\u3001\u6771\u4eac", ["\u6771\u4eac"], set()),
        ("5 \u00b5m, \u03c0, \uff21, \u2460", ["five"], set()),
        ("\u03b5\u03bd\u03c4\u03ac\u03be\u03b5\u03b9", ["fine"], {"GREEK"}),
        ("\u5f00 5 km", ["\u5f00"], set()),
        ("the light", ["\u5f00"], {"LATIN"}),
        ("four", ["2 + 2"], set()),
        ("", ["light"], set()),
    ],
)
def test_letters_of_a_script_that_nobody_used_are_foreign(
    text: str, known: list[str], foreign: set[str]
) -> None:
    assert foreign_scripts(text, known) == foreign


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ('{"message":"I can only help with home commands."}', True),
        ("I\u2019m sorry, but no.", True),
        ("I CANNOT do that.", True),
        ("Das kann ich nicht.", True),
        ("\u6211\u65e0\u6cd5\u56de\u7b54", True),
        ("The light is on.", False),
        ("That value is out of range.", False),
        ("", False),
    ],
)
def test_phrases_of_refusal_are_found(text: str, refusal: bool) -> None:
    assert is_refusal(text) is refusal
