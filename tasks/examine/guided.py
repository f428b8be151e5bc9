"""Does constrained decoding give a valid answer every time, and does it cost right ones?

What an application ships: ONNX Runtime GenAI's guidance, not the model, holds the form. What the
model does without it is measured in `answer_metrics.py`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from tasks.core.errors import VariantUnusable
from tasks.core.questions import asks_for_json, is_json, is_right, satisfies_schema
from tasks.core.records import Measurement, Question
from tasks.examine.answer_form import JsonForms, Schema
from tasks.examine.answers import short
from tasks.examine.generation import Completion, Engine, Guidance
from tasks.examine.metrics import (
    Metrics,
    count,
    none_measured,
    not_applicable,
    paired_change,
    share,
    unmeasurable,
)
from tasks.examine.protocol import Protocol, sample_questions

METRIC_NAMES = ("guided.invalid", "guided.right", "guided.right_delta")
COLUMNS = (
    *("question_id", "category", "guidance", "text", "tokens", "finish"),
    *("valid", "right", "right_unguided", "has_end"),
)
_DOMAIN, _OWN, _PATTERN = "the domain's schema", "a schema of its own", "a pattern"
_SOURCES = {"json": _DOMAIN, "json_schema": _OWN, "regex": _PATTERN}
_TRIVIAL = Guidance("regex", "a")
_NAMED = 5

# Those of json.dumps, by its `separators` argument, and the compact ones.
_SPACED, _COMPACT = (", ", ": "), (",", ":")


@dataclass(frozen=True)
class _Task:
    """One question, what constrains its answer, and the schema to satisfy; None for a pattern."""

    question: Question
    guidance: Guidance
    schema: Schema | None

    def is_valid(self, text: str) -> bool:
        if self.schema is None:
            return re.fullmatch(self.guidance.text, text) is not None
        return satisfies_schema(self.schema, text)


def examine_guided(
    engine: Engine,
    questions: Sequence[Question],
    limits: Mapping[str, int],
    unguided: pd.DataFrame,
    reference: pd.DataFrame,
    protocol: Protocol,
    say: Callable[[str], None],
) -> tuple[Metrics, list[str], pd.DataFrame]:
    """Ask a sample of the questions again, constrained to the form that they ask for.

    `json_schema` is constrained by its schema, `regex` by its pattern, `json` by the domain's
    schema (`JsonForms`); the other kinds have no form. All have room for the longest answer: any
    of the domain's forms may come.

    Args:
        engine: the variant.
        questions: all that were answered without guidance.
        limits: new tokens at most of those answers, by question id.
        unguided: what the variant answered to them, as `answers_frame` gives it.
        reference: likewise what the reference answered: where it kept the form and ended, the
            form has an end.
        protocol: for the size of the sample, its seed, and the level of the intervals.
        say: told how far it is.

    Returns:
        Metrics, notes, and a row a guided answer. An engine that fails is a finding, not an
        error: nothing has a value then, and the notes have its words.
    """
    guidable = [question for question in questions if question.expectation.kind in _SOURCES]
    nothing = pd.DataFrame(columns=COLUMNS)
    if not guidable:
        reason = f"none of the {len(questions)} questions asks for JSON or a pattern"
        return dict.fromkeys(METRIC_NAMES, not_applicable(reason)), [], nothing
    sample = sample_questions(guidable, protocol.guided_max_questions, protocol.seed)
    forms, style = JsonForms.of(questions), separators(questions, unguided["text"])
    try:
        tasks, refused = _accepted(engine, [_task(one, forms, style) for one in sample])
        if not tasks:
            reason = f"ONNX Runtime GenAI can constrain by none of {len(refused)}: {refused[0]}"
            return dict.fromkeys(METRIC_NAMES, not_applicable(reason)), [], nothing
        rows = _ask(engine, tasks, max(limits[task.question.id] for task in tasks), say)
    except VariantUnusable as problem:
        words = f"constrained decoding failed: {problem.message}"
        return none_measured(METRIC_NAMES, words[:250]), [words], nothing
    was_right = dict(zip(unguided["question_id"], unguided["right"], strict=True))
    rows["right_unguided"] = [bool(was_right[name]) for name in rows["question_id"]]
    rows["has_end"] = _have_ends(tasks, reference)
    how = _method(tasks, len(guidable), forms, style)
    return _metrics(rows, how, protocol), _notes(rows, refused), rows


def separators(questions: Sequence[Question], said: Iterable[str]) -> tuple[str, str]:
    """Give what stands between items and after keys: (",", ":") or (", ", ": ").

    Constrained decoding knows fixed separators only: ONNX Runtime GenAI 0.18 takes the patterns
    of llguidance's documentation literally (`": ?"` came out as `": ?"`), and under its
    `whitespace_pattern` a model can write white space for ever, as it can by default. A model is
    not at home in the style that it has not learnt: with (", ", ": ") all answers of the demo
    were valid and none was right, with (",", ":") all were (measured on its FP32 model). So the
    ideal answers decide; without any, what the model says unconstrained; else json.dumps.

    Args:
        questions: whose ideal answers are looked at, where they are JSON.
        said: unconstrained answers.
    """
    asked = [question for question in questions if asks_for_json(question.expectation)]
    ideal = (question.answer for question in asked if question.answer is not None)
    return _style(ideal) or _style(said) or _SPACED


def _style(texts: Iterable[str]) -> tuple[str, str] | None:
    seen: Counter[tuple[str, str]] = Counter()
    for text in map(str.strip, texts):
        if is_json(text):
            value = json.loads(text)
            for style in (_SPACED, _COMPACT):
                dumped = (
                    json.dumps(value, separators=style, ensure_ascii=a) for a in (True, False)
                )
                seen[style] += text in dumped
    if seen[_COMPACT] == seen[_SPACED]:
        return None
    return max(seen, key=lambda style: seen[style])


# ---------------------------------------------------------------- what is asked


def _task(question: Question, forms: JsonForms, style: tuple[str, str]) -> _Task:
    if question.expectation.kind == "regex":
        return _Task(question, Guidance("regex", str(question.expectation.value)), None)
    form = {
        # Without this a model may write white space for ever: a random one did, to the limit.
        "x-guidance": {
            "whitespace_flexible": False,
            "item_separator": style[0],
            "key_separator": style[1],
        },
        # Not sorted: keys are written in the order in which the schema has them.
        **(forms.bounded_schema(question) or question.expectation.value),
    }
    return _Task(question, Guidance("json_schema", json.dumps(form)), forms.schema(question))


def _accepted(engine: Engine, tasks: Sequence[_Task]) -> tuple[list[_Task], list[str]]:
    """Part what the engine can constrain by from what it can't: look-ahead, references, formats.

    Raises:
        VariantUnusable: it can constrain by nothing, which is not the questions' fault.
    """
    if problem := engine.guidance_problem(_TRIVIAL):
        raise VariantUnusable(problem)
    problems = {
        guidance: engine.guidance_problem(guidance)
        for guidance in dict.fromkeys(task.guidance for task in tasks)
    }
    refused = [
        f"{task.question.id} ({problem})"
        for task in tasks
        if (problem := problems[task.guidance]) is not None
    ]
    return [task for task in tasks if problems[task.guidance] is None], refused


def _ask(
    engine: Engine, tasks: Sequence[_Task], limit: int, say: Callable[[str], None]
) -> pd.DataFrame:
    rows = []
    for number, task in enumerate(tasks, start=1):
        found = _complete(engine, task, limit)
        text = engine.decode(found.tokens)
        rows.append(
            {
                "question_id": task.question.id,
                "category": task.question.category,
                "guidance": _SOURCES[task.question.expectation.kind],
                "text": text,
                "tokens": found.tokens,
                "finish": "eos" if found.stopped else "length",
                "valid": found.stopped and task.is_valid(text),
                "right": is_right(task.question.expectation, text),
            }
        )
        say(f"guided answers {number}/{len(tasks)}")
    return pd.DataFrame(rows)


def _complete(engine: Engine, task: _Task, limit: int) -> Completion:
    prompt = engine.encode(engine.render(task.question.messages))
    if not prompt:
        return Completion([], stopped=False)
    room = min(limit, engine.context_length - len(prompt))
    return engine.complete(prompt, room, guidance=task.guidance)


# ---------------------------------------------------------------- what came of it


def _have_ends(tasks: Sequence[_Task], reference: pd.DataFrame) -> list[bool]:
    """Tell of each constraint whether an answer under it is known to end.

    The domain's schema is bounded. A schema or a pattern of the user's own may have no end, for
    the reference no more than for the variant; where the reference keeps the form and stops,
    unconstrained, it has one. That it stops is not enough: what it says before may have nothing
    to do with the form.
    """
    said = dict(zip(reference["question_id"], reference["text"], strict=True))
    stopped = set(reference.loc[reference["stopped"].astype(bool), "question_id"])
    return [
        _SOURCES[task.question.expectation.kind] == _DOMAIN
        or (task.question.id in stopped and task.is_valid(said[task.question.id]))
        for task in tasks
    ]


def _metrics(rows: pd.DataFrame, how: str, protocol: Protocol) -> Metrics:
    return {
        "guided.invalid": _invalid(rows, how),
        **_rightness(rows[rows["guidance"] == _DOMAIN], protocol.level),
    }


def _invalid(rows: pd.DataFrame, how: str) -> Measurement:
    """Count invalid answers, of those that ended or should have: what was cut short is no answer.

    None of them is no pass: nothing was validated.
    """
    endless = ~rows["has_end"] & (rows["finish"] == "length")
    counted = rows[~endless]
    words = "invalid, or cut short under a form that has an end"
    if left_out := int(endless.sum()):
        words += (
            f"; {left_out} cut short under a schema or pattern of a question that may have no end "
            "are not counted"
        )
    if counted.empty:
        return unmeasurable(f"no constrained answer ended; {words}; {how}")
    return count(int((~counted["valid"]).sum()), len(counted), f"{words}; {how}")


def _rightness(rows: pd.DataFrame, level: float) -> Metrics:
    """Count right answers where the constraint does not give them away.

    A pattern and a schema with constants do: a model of random weights answered 16 of 100 demo
    questions right that way (measured).
    """
    names = METRIC_NAMES[1:]
    if rows.empty:
        reason = "no question of the kind json: what else constrains an answer is its expectation"
        return dict.fromkeys(names, not_applicable(reason))
    words = f"right answers under {_DOMAIN}, which holds no value"
    before, after = rows["right_unguided"], rows["right"]
    return {
        names[0]: share(after, words, level=level),
        names[1]: paired_change(
            before, after, f"{words}, minus the variant's own without it", level=level
        ),
    }


def _method(tasks: Sequence[_Task], guidable: int, forms: JsonForms, style: tuple[str, str]) -> str:
    sources = Counter(_SOURCES[task.question.expectation.kind] for task in tasks)
    by = ", ".join(f"{number} by {source}" for source, number in sources.items())
    how = f"{len(tasks)} of {guidable} questions with a form, constrained: {by}"
    if sources[_DOMAIN]:
        scope = "one a category" if forms.by_category else "one for all"
        how += f" ({scope}, {forms.count} forms of right answers: keys and types, bounded)"
    return f"{how}; separators {style[0]!r} and {style[1]!r}"


def _notes(rows: pd.DataFrame, refused: Sequence[str]) -> list[str]:
    broken = rows[~rows["valid"]]
    notes = [
        f"{row.question_id}: constrained by {row.guidance}, the variant says "
        f"{short(str(row.text))}, {'cut short' if row.finish == 'length' else 'which is not valid'}"
        for row in broken.head(_NAMED).itertuples()
    ]
    if (rest := len(broken) - len(notes)) > 0:
        notes.append(f"and {rest} more constrained answers are not valid")
    if refused:
        named = "; ".join(refused[:_NAMED])
        notes.append(f"{len(refused)} questions can't be constrained and were left out: {named}")
    return notes
