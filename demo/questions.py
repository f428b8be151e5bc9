"""The held-out questions that the demo checkpoint is examined with, as records and as a file.

Refuses to know how an answer is produced; what each expectation means is the examiner's matter.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from demo.answers import Answer, answer_text, refusal
from demo.chat_templates import Message
from demo.home_commands import (
    LONG_SENTENCES,
    Conversation,
    Turn,
    draw_conversation,
    draw_long,
)
from demo.phrasings import EMPTY_HELD_OUT, REFUSALS

QUESTIONS_SEED: Final = 10_007
QUESTIONS_PER_CATEGORY: Final = {
    "single": 400,
    "multi_turn": 100,
    "clarify": 40,
    "out_of_scope": 100,
    "invalid_value": 40,
}
LONG_QUESTIONS_EACH: Final = 40
# Decided by the category or the intent, so that every kind of expectation is used where it fits.
EXACT_CATEGORIES: Final = ("clarify", "invalid_value", "empty")


@dataclass(frozen=True)
class Question:
    """One chat, what its answer is expected to satisfy, and the one right answer.

    `expectation` is `{"kind": ..., "value": ...}` with kind exact, json, json_schema, regex or
    contains. The last message is the user's.
    """

    id: str
    category: str
    messages: tuple[Message, ...]
    expectation: dict[str, Any]
    answer: str


def make_questions(seed: int = QUESTIONS_SEED) -> list[Question]:
    """Draw the held-out questions; the same seed gives the same list, without repetitions."""
    numbers: Counter[str] = Counter()
    questions = []
    for conversation in held_out_conversations(seed):
        numbers[conversation.category] += 1
        questions.append(_question(conversation, numbers[conversation.category]))
    return questions


def held_out_conversations(seed: int) -> list[Conversation]:
    """Draw the conversations behind the questions, all through the right template."""
    rng = Random(seed)  # noqa: S311  # has to be repeatable, not secret
    drawn = []
    for category, count in QUESTIONS_PER_CATEGORY.items():
        drawn += _distinct(count, partial(draw_conversation, rng, category, "held_out"))
    drawn += [_empty_conversation(text) for text in ("", *EMPTY_HELD_OUT)]
    for sentences in LONG_SENTENCES:
        drawn += _distinct(LONG_QUESTIONS_EACH, partial(_long_conversation, rng, sentences))
    return drawn


def _distinct(count: int, draw: Callable[[], Conversation]) -> list[Conversation]:
    by_chat: dict[str, Conversation] = {}
    while len(by_chat) < count:
        conversation = draw()
        by_chat[json.dumps(conversation.messages())] = conversation
    return list(by_chat.values())


def _empty_conversation(text: str) -> Conversation:
    return Conversation("empty", (Turn(text, answer_text(refusal("empty_input"))),))


def _long_conversation(rng: Random, sentences: int) -> Conversation:
    return Conversation(f"long_{sentences}", draw_long(rng, sentences))


def _question(conversation: Conversation, number: int) -> Question:
    return Question(
        id=f"{conversation.category}-{number:04d}",
        category=conversation.category,
        messages=tuple(conversation.messages()),
        expectation=expectation(conversation.category, number, conversation.answer),
        answer=conversation.answer,
    )


# ---------------------------------------------------------------- expectations
def expectation(category: str, number: int, answer: str) -> dict[str, Any]:
    """Say what the answer has to satisfy, in the kind that suits the category and the intent.

    Unlock codes are matched by a regex, since a code that lost its leading zero is wrong; a
    timer by a schema; every second refusal off topic by its message alone.
    """
    if category in EXACT_CATEGORIES:
        return {"kind": "exact", "value": answer}
    if category == "out_of_scope" and number % 2 == 0:
        return {"kind": "contains", "value": REFUSALS["out_of_scope"]}
    value = json.loads(answer)
    if value["intent"] == "unlock":
        return {"kind": "regex", "value": f"^{re.escape(answer)}$"}
    if value["intent"] == "timer_set":
        return {"kind": "json_schema", "value": schema_of(value)}
    return {"kind": "json", "value": value}


def schema_of(answer: Answer) -> dict[str, Any]:
    """Give the JSON schema that admits this answer and no other."""
    return {
        "type": "object",
        "properties": {slot: {"const": value} for slot, value in answer.items()},
        "required": list(answer),
        "additionalProperties": False,
    }


# ---------------------------------------------------------------- the file
def write_questions(questions: Iterable[Question], path: Path) -> None:
    """Write one question a line, as JSON."""
    lines = (json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions)
    path.write_text("".join(lines), encoding="utf-8")


def read_questions(path: Path) -> list[Question]:
    """Read the questions that `write_questions` wrote, in the same order."""
    with path.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [Question(**record | {"messages": tuple(record["messages"])}) for record in records]
