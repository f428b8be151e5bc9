"""Domain questions from a JSONL file, and what counts as a right answer to one.

Refuses to know who answers, and how; it sees texts only.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from tasks.core.errors import QuestionsRefused
from tasks.core.records import Expectation, Message, Question, QuestionFile

_NEXT_STEP = (
    'write one JSON object a line: {"id", "category", "messages": [{"role", "content"}], '
    '"expectation": {"kind", "value"}, "answer" (optional)}'
)
_LISTED_PROBLEMS = 5
_FORMATTED = ("json", "json_schema")


def load_questions(path: Path) -> list[Question]:
    """Read questions from a JSONL file, one JSON object a line; blank lines are passed over.

    Message texts come back in Unicode NFC: most Hugging Face tokenizers normalise to it, the
    tokenizer of ONNX Runtime GenAI 0.18 does not (measured 2026-11), and both must see one text.

    Raises:
        QuestionsRefused: the file cannot be read or holds no question, or lines are wrong: each
            of the first five is named with its number and what is wrong with it.
    """
    questions: list[Question] = []
    first_line_of: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            question = _parse_question(line)
            _require_first_use(question.id, first_line_of.setdefault(question.id, number), number)
            questions.append(question)
        except _Wrong as problem:
            problems.append(f"line {number}: {problem}")
    if problems:
        _refuse(path, problems)
    if not questions:
        raise QuestionsRefused(
            f"{path} holds no question", expected="at least one", got="none", next_step=_NEXT_STEP
        )
    return questions


def load_question_file(file: QuestionFile) -> list[Question]:
    """Read the questions again that the release began with.

    Raises:
        QuestionsRefused: they are not those any more, or `load_questions` refuses them.
    """
    questions = load_questions(file.path)
    if (digest := questions_digest(questions)) != file.digest:
        raise QuestionsRefused(
            f"the question file {file.path} changed while the release ran",
            expected=f"the {file.count} questions of digest {file.digest[:12]}",
            got=f"{len(questions)} questions of digest {digest[:12]}",
            next_step="run the release again, and leave the file alone until it ends",
        )
    return questions


def is_right(expectation: Expectation, text: str) -> bool:
    """Tell whether an answer meets its expectation; white space around the answer never counts.

    JSON is compared by value: the order of keys does not matter, 1 and 1.0 are one number, and
    unlike in Python `true` is not 1. A key given twice is not valid here.
    """
    return _CHECKS[expectation.kind](expectation.value, text.strip())


def has_valid_format(expectation: Expectation, text: str) -> bool:
    """Tell whether an answer has the form that is asked for, right or not.

    `json` must parse, `json_schema` must parse and satisfy the schema, the others not be empty.
    """
    if not asks_for_json(expectation):
        return bool(text.strip())
    if expectation.kind == "json_schema":
        return is_right(expectation, text)
    return is_json(text)


def asks_for_json(expectation: Expectation) -> bool:
    """Tell whether a right answer has to be JSON."""
    return expectation.kind in _FORMATTED


def is_json(text: str) -> bool:
    """Tell whether a text is one JSON value and nothing else, white space around it aside."""
    return _parsed(text.strip()) is not _NOT_JSON


def satisfies_schema(schema: Mapping[str, Any], text: str) -> bool:
    """Tell whether a text is JSON that satisfies a schema, white space around it aside."""
    return _satisfies_schema(schema, text.strip())


def questions_digest(questions: list[Question]) -> str:
    """Give one SHA-256 over all questions in their order, as 64 hex characters."""
    total = hashlib.sha256()
    for question in questions:
        fields = json.dumps(question.model_dump(mode="json"), sort_keys=True)
        total.update(f"{fields}\n".encode())
    return total.hexdigest()


# ---------------------------------------------------------------- reading


# Asked at most; of a longer file a fixed sample, in which every category keeps its share.
MOST_QUESTIONS = 1000


class _Wrong(Exception):
    """One line is no question; the message says why."""


def _lines(path: Path) -> list[str]:
    try:
        # Not splitlines: U+2028 and friends may stand inside a JSON string.
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except OSError as problem:
        raise QuestionsRefused(
            f"cannot read the questions: {problem}", next_step="give a JSONL file"
        ) from problem
    except UnicodeDecodeError as problem:
        line = problem.object.count(b"\n", 0, problem.start) + 1
        raise QuestionsRefused(
            f"{path}, line {line}: not UTF-8 ({problem.reason})",
            next_step="save the file as UTF-8",
        ) from problem


def _parse_question(line: str) -> Question:
    try:
        question = Question.model_validate(_strict_json(line))
    except ValidationError as problem:  # is a ValueError too, so it has to come first
        raise _Wrong("; ".join(_words(problem))) from problem
    except (ValueError, RecursionError) as problem:
        raise _Wrong(f"not JSON: {problem}") from problem
    _require_plain_text(question)
    if rule := _EXPECTATION_RULES.get(question.expectation.kind):
        rule(question.expectation.value)
    if question.answer is not None and not is_right(question.expectation, question.answer):
        raise _Wrong(f"`answer` {question.answer!r} does not meet the question's own expectation")
    return question.model_copy(update={"messages": [_normalised(m) for m in question.messages]})


def _require_first_use(question_id: str, first_line: int, line: int) -> None:
    if first_line != line:
        raise _Wrong(f"id {question_id!r} is already that of line {first_line}")


def _words(problem: ValidationError) -> Iterator[str]:
    for error in problem.errors(include_url=False):
        where = ".".join(str(part) for part in error["loc"]) or "the line"
        yield f"{where}: {error['msg']}"


def _require_plain_text(question: Question) -> None:
    texts = [message.content for message in question.messages]
    for text in [question.id, question.category, *texts, question.answer or ""]:
        if "\x00" in text:
            # Measured on 0.18: "ab\x00cd" is tokenised as "ab", without a word.
            raise _Wrong("U+0000 in a text: ONNX Runtime GenAI silently cuts texts there")
        try:
            text.encode()
        except UnicodeEncodeError as problem:
            raise _Wrong(f"half of a surrogate pair in a text: {problem}") from problem


def _normalised(message: Message) -> Message:
    return message.model_copy(update={"content": unicodedata.normalize("NFC", message.content)})


def _refuse(path: Path, problems: list[str]) -> NoReturn:
    listed = "; ".join(problems[:_LISTED_PROBLEMS])
    rest = len(problems) - _LISTED_PROBLEMS
    more = f"; and {rest} more lines" if rest > 0 else ""
    raise QuestionsRefused(f"{path}, {listed}{more}", next_step=_NEXT_STEP)


# ---------------------------------------------------------------- expectations, up front


def _require_text(value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f"expectation.value must be a text that is not empty, not {value!r}")


def _require_pattern(value: Any) -> None:
    _require_text(value)
    try:
        re.compile(value)
    except re.error as problem:
        raise _Wrong(f"expectation.value is no regular expression: {problem}") from problem


def _require_schema(value: Any) -> None:
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    if not isinstance(value, dict):
        raise _Wrong(f"expectation.value must be a JSON schema object, not {value!r}")
    try:
        _validator(_canonical(value)).check_schema(value)
        for reference in _references(value):
            _resolver(value).lookup(reference)
    except SchemaError as problem:
        raise _Wrong(f"expectation.value is no JSON schema: {problem.message}") from problem
    except Unresolvable as problem:
        raise _Wrong(
            f"expectation.value refers to {problem.ref!r}, which is not in it"
        ) from problem


# None for `json`: whatever stood in the line is JSON.
_EXPECTATION_RULES: dict[str, Callable[[Any], None]] = {
    "exact": _require_text,
    "contains": _require_text,
    "regex": _require_pattern,
    "json_schema": _require_schema,
}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _resolver(schema: dict[str, Any]) -> Any:
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    resource = DRAFT202012.create_resource(schema)
    return Registry().resolver_with_root(resource)


@lru_cache(maxsize=4096)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    value = json.loads(schema)
    # An empty registry: the default one would fetch remote references from the network.
    return validator_for(value, default=Draft202012Validator)(value, registry=Registry())


# ---------------------------------------------------------------- answers


_NOT_JSON = object()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} is given twice")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _strict_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _parsed(text: str) -> Any:
    try:
        return _strict_json(text)
    except (ValueError, RecursionError):  # models loop: "[[[[[[..." overflows the parser
        return _NOT_JSON


def _canonical(value: Any) -> str:
    return json.dumps(_one_number_type(value), sort_keys=True)


def _one_number_type(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _one_number_type(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_one_number_type(part) for part in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _equals_json(value: Any, text: str) -> bool:
    parsed = _parsed(text)
    return parsed is not _NOT_JSON and _canonical(parsed) == _canonical(value)


def _satisfies_schema(value: Any, text: str) -> bool:
    parsed = _parsed(text)
    return parsed is not _NOT_JSON and bool(_validator(_canonical(value)).is_valid(parsed))


_CHECKS: dict[str, Callable[[Any, str], bool]] = {
    "exact": lambda value, text: text == str(value).strip(),
    "json": _equals_json,
    "json_schema": _satisfies_schema,
    "regex": lambda value, text: re.fullmatch(value, text) is not None,
    "contains": lambda value, text: str(value).casefold() in text.casefold(),
}
