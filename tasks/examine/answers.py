"""What a model answers to the domain questions: a row an answer, and the worst ones in words.

Greedy, through the folder's own template and tokenizer, because that is what ships. Right and
wrong are decided by tasks/core/questions.py; rows become numbers in answer_metrics.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tasks.core.errors import QuestionsRefused
from tasks.core.questions import (
    asks_for_json,
    has_valid_format,
    is_json,
    is_right,
    satisfies_schema,
)
from tasks.core.records import Answer, Question
from tasks.examine.answer_form import JsonForms, ends_in_cycle, foreign_scripts, is_refusal
from tasks.examine.generation import Completion, Engine
from tasks.examine.protocol import ideal_text

_NAMED = 5
_SHOWN = 120


def answer_questions(
    engine: Engine,
    questions: Sequence[Question],
    limits: Mapping[str, int],
    say: Callable[[str], None],
) -> list[Answer]:
    """Ask every question once, greedily.

    Args:
        engine: a loaded model folder.
        questions: what to ask.
        limits: new tokens at most, by question id; the context's end comes first.
        say: told how far it is.

    Raises:
        QuestionsRefused: a prompt does not fit into the context.
        VariantUnusable: the engine failed.
    """
    answers = []
    for number, question in enumerate(questions, start=1):
        answers.append(_answer(engine, question, limits[question.id]))
        say(f"answers {number}/{len(questions)}")
    return answers


def _answer(engine: Engine, question: Question, limit: int) -> Answer:
    prompt = engine.encode(engine.render(question.messages))
    _require_room(question.id, len(prompt), engine.context_length)
    if prompt:
        completion = engine.complete(prompt, min(limit, engine.context_length - len(prompt)))
    else:  # a template that adds nothing to an empty message: no engine answers that
        completion = Completion([], stopped=False)
    text = engine.decode(completion.tokens)
    return Answer(
        question_id=question.id,
        text=text,
        right=is_right(question.expectation, text),
        stopped=completion.stopped,
        tokens=completion.tokens,
    )


def _require_room(question_id: str, prompt_tokens: int, context_length: int) -> None:
    if prompt_tokens >= context_length:
        raise QuestionsRefused(
            f"question {question_id!r} is longer than the model can read",
            expected=f"less than {context_length} tokens with the chat template",
            got=f"{prompt_tokens}",
            next_step="shorten it, or take it out of the question file",
        )


# ---------------------------------------------------------------- a row a question


def answers_frame(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    reference: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Put answers into rows, in the order of the questions.

    Columns: question_id, category, prompt_sha256 (of the messages), text, tokens, right,
    valid_format, json_ok and schema_ok (missing where no JSON is asked for), stopped, finish
    (`eos` or `length`), loop, refusal.

    Args:
        questions: what was asked.
        answers: one to each of them.
        reference: the reference's frame on the same questions; adds right_reference, first_div
            (index of the first token that differs, missing where none does) and script_ok.
    """
    forms = JsonForms.of(questions)
    pairs = zip(questions, answers, strict=True)
    rows = pd.DataFrame([_row(question, answer, forms) for question, answer in pairs])
    rows = rows.astype({"json_ok": "boolean", "schema_ok": "boolean"})
    return rows if reference is None else _against(rows, reference, questions)


def _row(question: Question, answer: Answer, forms: JsonForms) -> dict[str, Any]:
    schema = forms.schema(question)
    asked = asks_for_json(question.expectation)
    return {
        "question_id": question.id,
        "category": question.category,
        "prompt_sha256": _prompt_sha256(question),
        "text": answer.text,
        "tokens": answer.tokens,
        "right": answer.right,
        "valid_format": has_valid_format(question.expectation, answer.text),
        "json_ok": is_json(answer.text) if asked else None,
        "schema_ok": None if schema is None else satisfies_schema(schema, answer.text),
        "stopped": answer.stopped,
        "finish": "eos" if answer.stopped else "length",
        "loop": ends_in_cycle(answer.tokens[:-1] if answer.stopped else answer.tokens),
        "refusal": is_refusal(answer.text),
    }


def _prompt_sha256(question: Question) -> str:
    turns = [message.model_dump(mode="json") for message in question.messages]
    return hashlib.sha256(json.dumps(turns, sort_keys=True).encode()).hexdigest()


def _against(
    rows: pd.DataFrame, reference: pd.DataFrame, questions: Sequence[Question]
) -> pd.DataFrame:
    tokens = zip(reference["tokens"], rows["tokens"], strict=True)
    texts = zip(questions, rows["text"], reference["text"], strict=True)
    return rows.assign(
        right_reference=reference["right"].to_numpy(bool),
        first_div=pd.array([first_difference(*pair) for pair in tokens], dtype="Int64"),
        script_ok=[
            not foreign_scripts(text, _known_texts(question, said))
            for question, text, said in texts
        ],
    )


def _known_texts(question: Question, reference: str) -> list[str]:
    asked = [message.content for message in question.messages]
    return [*asked, ideal_text(question) or "", reference]


def first_difference(before: Sequence[int], after: Sequence[int]) -> int | None:
    """Give the index of the first token that differs, or None where all are the same."""
    shorter = min(len(before), len(after))
    unlike = np.flatnonzero(np.asarray(before[:shorter]) != np.asarray(after[:shorter]))
    if len(unlike):
        return int(unlike[0])
    return None if len(before) == len(after) else shorter


# ---------------------------------------------------------------- in words


def answer_notes(reference: pd.DataFrame, variant: pd.DataFrame) -> list[str]:
    """Name questions whose answers got worse, with both answers where right turned to wrong."""
    harmed = reference["right"].to_numpy(bool) & ~variant["right"].to_numpy(bool)
    pairs = zip(reference[harmed].itertuples(), variant[harmed].itertuples(), strict=True)
    notes = [
        f"{now.question_id} ({now.category}): the reference says {short(was.text)}, which is "
        f"right; the variant says {short(now.text)}"
        for was, now in list(pairs)[:_NAMED]
    ]
    if (rest := int(harmed.sum()) - len(notes)) > 0:
        notes.append(f"and {rest} more questions turned from right to wrong")
    looped, refused = (reference[column].to_numpy(bool) for column in ("loop", "refusal"))
    new = {
        "answers that end in a cycle": variant["loop"] & ~looped,
        "answers in another script": ~variant["script_ok"],
        "refusals where the reference has none": variant["refusal"] & ~refused,
    }
    return notes + [_named(variant[rows], words) for words, rows in new.items() if rows.any()]


def _named(rows: pd.DataFrame, words: str) -> str:
    return f"{words}: {len(rows)}, such as {', '.join(rows['question_id'].head(_NAMED))}"


def short(text: str) -> str:
    """Quote a text, cut to what fits into a line."""
    words = repr(text)
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}..."
