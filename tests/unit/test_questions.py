"""Questions are refused up front with line numbers; answers are judged by value, not by looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import QuestionsRefused
from tasks.core.questions import (
    asks_for_json,
    has_valid_format,
    is_json,
    is_right,
    load_question_file,
    load_questions,
    questions_digest,
    satisfies_schema,
)
from tasks.core.records import Expectation, QuestionFile


def line(**changes: Any) -> str:
    question: dict[str, Any] = {
        "id": "q1",
        "category": "light",
        "messages": [{"role": "user", "content": "Turn it on"}],
        "expectation": {"kind": "json", "value": {"on": True}},
    }
    return json.dumps(
        {key: value for key, value in (question | changes).items() if value is not None}
    )


def expecting(kind: str, value: Any) -> str:
    return line(expectation={"kind": kind, "value": value})


def write(folder: Path, *lines: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(folder: Path, *lines: str) -> str:
    with pytest.raises(QuestionsRefused) as refused:
        load_questions(write(folder, *lines))
    return str(refused.value)


def test_questions_come_back_in_their_order(tmp_path: Path) -> None:
    questions = load_questions(write(tmp_path, line(id="b"), "", line(id="a")))
    assert [question.id for question in questions] == ["b", "a"]


def test_byte_order_mark_windows_line_ends_and_line_separators_are_read(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    text = line(messages=[{"role": "user", "content": "a\u2028b"}]).replace("\\u2028", "\u2028")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n" + line(id="q2").encode() + b"\r\n")
    assert [len(question.messages[0].content) for question in load_questions(path)] == [3, 10]


def test_message_texts_are_composed_so_that_all_tokenizers_see_the_same(tmp_path: Path) -> None:
    decomposed = line(messages=[{"role": "user", "content": "cafe\u0301"}])
    assert load_questions(write(tmp_path, decomposed))[0].messages[0].content == "caf\u00e9"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{not json", "not JSON"),
        ("[1]", "valid dictionary"),
        (line(expected=1), "expected: Extra inputs"),
        (line(category=None), "category: Field required"),
        (line(messages=[]), "messages: List should have at least 1"),
        (line(messages=[{"role": "assistant", "content": "x"}]), "must be the user's"),
        (line(messages=[{"role": "robot", "content": "x"}]), "messages.0.role"),
        (line(messages=[{"role": "user", "content": "a\x00b"}]), "U+0000"),
        (line(messages=[{"role": "user", "content": "\ud800"}]), "surrogate pair"),
        ('{"id": "a", "id": "b"}', "key 'id' is given twice"),
        (expecting("guess", 1), "expectation.kind"),
        (expecting("exact", 7), "must be a text"),
        (expecting("contains", " "), "not empty"),
        (expecting("regex", "(a"), "no regular expression"),
        (expecting("json_schema", {"type": "objekt"}), "no JSON schema"),
        (expecting("json_schema", [1]), "schema object"),
        (expecting("json_schema", {"$ref": "#/$defs/gone"}), "'/$defs/gone'"),
        (expecting("json_schema", {"$ref": "http://127.0.0.1:1/s"}), "127.0.0.1"),
        (line(answer='{"on": false}'), "does not meet the question's own expectation"),
    ],
)
def test_bad_line_is_refused_with_its_number_and_reason(
    tmp_path: Path, bad: str, words: str
) -> None:
    message = refusal(tmp_path, line(id="fine"), bad)
    assert "questions.jsonl, line 2: " in message
    assert words in message


def test_several_bad_lines_are_named_together(tmp_path: Path) -> None:
    message = refusal(tmp_path, *["{"] * 7)
    assert "line 1: " in message
    assert "line 5: " in message
    assert "and 2 more lines" in message


def test_repeated_id_names_both_lines(tmp_path: Path) -> None:
    message = refusal(tmp_path, line(id="a"), line(id="b"), line(id="a"))
    assert "line 3: id 'a' is already that of line 1" in message


def test_file_without_a_question_is_refused(tmp_path: Path) -> None:
    assert "holds no question" in refusal(tmp_path, "", "  ")


def test_missing_file_and_wrong_encoding_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QuestionsRefused, match="cannot read"):
        load_questions(tmp_path / "absent.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(line().encode() + b"\n\xe9\n")
    with pytest.raises(QuestionsRefused, match="line 2: not UTF-8"):
        load_questions(tmp_path / "latin.jsonl")


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("kind", "value", "text", "right"),
    [
        ("exact", "On.", " On.\n", True),
        ("exact", "On.", "on.", False),
        ("json", {"a": 1, "b": [2]}, '{"b": [2.0], "a": 1}', True),
        ("json", {"a": 1}, '{"a": true}', False),
        ("json", {"a": 1}, '{"a": 1} and more', False),
        ("json", {"a": 1}, '{"a": 2, "a": 1}', False),
        ("json", {"a": 1}, "[" * 100_000, False),
        ("json", None, "NaN", False),
        ("json_schema", SCHEMA, '{"n": 3}', True),
        ("json_schema", SCHEMA, '{"n": "3"}', False),
        ("json_schema", SCHEMA, "n is 3", False),
        ("regex", r"\d{4}", "0042", True),
        ("regex", r"\d{4}", "00421", False),
        ("contains", "Kitchen", "the kitchen light", True),
        ("contains", "kitchen", "the bedroom light", False),
    ],
)
def test_right_answers_are_told_from_wrong_ones(
    kind: Any, value: Any, text: str, right: bool
) -> None:
    assert is_right(Expectation(kind=kind, value=value), text) is right


@pytest.mark.parametrize(
    ("kind", "value", "text", "valid"),
    [
        ("json", {"a": 1}, '{"b": 2}', True),
        ("json", {"a": 1}, "{", False),
        ("json_schema", SCHEMA, '{"n": "3"}', False),
        ("exact", "On.", "Off.", True),
        ("exact", "On.", " \n", False),
    ],
)
def test_wrong_answer_in_the_asked_form_is_valid(
    kind: Any, value: Any, text: str, valid: bool
) -> None:
    assert has_valid_format(Expectation(kind=kind, value=value), text) is valid


@pytest.mark.parametrize(
    ("text", "json_ok", "schema_ok"),
    [
        (' {"n": 1}\n', True, True),
        ('{"n": "1"}', True, False),
        ('{"n": 1}&', False, False),
        ('{"n": 1', False, False),
        ("", False, False),
    ],
)
def test_json_is_one_value_with_nothing_after_it(text: str, json_ok: bool, schema_ok: bool) -> None:
    assert is_json(text) is json_ok
    assert satisfies_schema(SCHEMA, text) is schema_ok


def test_only_two_kinds_ask_for_json() -> None:
    asking = [
        kind
        for kind in ("exact", "json", "json_schema", "regex", "contains")
        if asks_for_json(Expectation(kind=kind, value="x"))
    ]
    assert asking == ["json", "json_schema"]


def test_digest_changes_with_text_and_order(tmp_path: Path) -> None:
    first, second = load_questions(write(tmp_path, line(id="a"), line(id="b")))
    changed = second.model_copy(update={"category": "heating"})
    digests = [
        questions_digest(each)
        for each in ([first, second], [second, first], [first, changed], [first])
    ]
    assert len(set(digests)) == 4
    assert questions_digest([first, second]) == digests[0]


def test_question_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, line(id="a"), line(id="b"))
    questions = load_questions(path)
    file = QuestionFile(path=path, digest=questions_digest(questions), count=2)
    assert load_question_file(file) == questions
    write(tmp_path, line(id="a"), line(id="b", expectation={"kind": "json", "value": 1}))
    with pytest.raises(QuestionsRefused, match="changed while the release ran") as refused:
        load_question_file(file)
    assert file.digest[:12] in refused.value.expected
    assert questions_digest(load_questions(path))[:12] in refused.value.got
