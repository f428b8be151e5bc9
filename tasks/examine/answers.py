"""What a model answers to the domain questions, and how that changed against the reference.

Greedy, through the folder's own template and tokenizer, because that is what ships. Right and
wrong are decided by tasks/core/questions.py; whether a change is acceptable, by the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from tasks.core.errors import QuestionsRefused
from tasks.core.questions import has_valid_format, is_right
from tasks.core.records import Answer, Question
from tasks.core.statistics import paired_difference, wilson
from tasks.examine.generation import Engine
from tasks.examine.metrics import Metrics, count, paired_change, paired_ratio, share

METRIC_NAMES = (
    "answers.right",
    "answers.right_reference",
    "answers.delta",
    "answers.recovery",
    "answers.flip_rate",
    "answers.harm",
    "answers.same_text",
    "answers.format_valid",
    "answers.format_delta",
    "answers.stopped",
    "answers.stopped_ratio",
    "answers.empty",
)
_NAMED_FLIPS = 5
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
    completion = engine.complete(prompt, min(limit, engine.context_length - len(prompt)))
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


def answers_frame(questions: Sequence[Question], answers: Sequence[Answer]) -> pd.DataFrame:
    """Put answers into rows: question_id, category, text, tokens, right, stopped, valid_format."""
    return pd.DataFrame(
        [
            {
                **answer.model_dump(),
                "category": question.category,
                "valid_format": has_valid_format(question.expectation, answer.text),
            }
            for question, answer in zip(questions, answers, strict=True)
        ]
    )


def reference_metrics(rows: pd.DataFrame) -> Metrics:
    """Say how well the reference itself answers."""
    return {
        "reference.right": share(rows["right"], "greedy answers of the FP32 ONNX model"),
        "reference.format_valid": share(rows["valid_format"], "answers in the asked format"),
        "reference.stopped": share(rows["stopped"], "answers that end by themselves"),
    }


def answer_metrics(reference: pd.DataFrame, variant: pd.DataFrame) -> Metrics:
    """Summarise a variant's answers against the reference's to the same questions, in order."""
    was, now = reference["right"].to_numpy(bool), variant["right"].to_numpy(bool)
    valid_before, valid = reference["valid_format"], variant["valid_format"]
    empty = variant["text"].str.strip() == ""
    return {
        "answers.right": share(now, "greedy answers that meet their expectation"),
        "answers.right_reference": share(was, "the same questions, FP32 ONNX model"),
        "answers.delta": paired_change(was, now, "right answers, variant minus reference"),
        "answers.recovery": paired_ratio(was, now, "right answers, variant over reference"),
        "answers.flip_rate": share(was != now, "questions that change between right and wrong"),
        "answers.harm": share(was & ~now, "questions that change from right to wrong"),
        "answers.same_text": share(
            reference["text"].to_numpy() == variant["text"].to_numpy(), "answers of equal text"
        ),
        "answers.format_valid": share(valid, "answers in the asked format"),
        "answers.format_delta": paired_change(valid_before, valid, "answers in the asked format"),
        "answers.stopped": share(variant["stopped"], "answers that end by themselves"),
        "answers.stopped_ratio": paired_ratio(
            reference["stopped"], variant["stopped"], "answers that end by themselves"
        ),
        "answers.empty": count(int(empty.sum()), len(variant), "answers with nothing in them"),
    }


def category_frame(reference: pd.DataFrame, variant: pd.DataFrame) -> pd.DataFrame:
    """Give one row a category: n, right, right_reference, delta, all with their intervals."""
    paired = variant[["category", "right"]].assign(was=reference["right"].to_numpy())
    return pd.DataFrame(
        [
            _category_row(str(category), rows["was"].astype(bool), rows["right"].astype(bool))
            for category, rows in paired.groupby("category", sort=True)
        ]
    )


def _category_row(category: str, was: pd.Series[bool], now: pd.Series[bool]) -> dict[str, object]:
    n = len(now)
    gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
    right_low, right_high = wilson(int(now.sum()), n)
    delta_low, delta_high = paired_difference(gained, lost, n)
    return {
        "category": category,
        "n": n,
        "right": now.mean(),
        "right_low": right_low,
        "right_high": right_high,
        "right_reference": was.mean(),
        "delta": now.mean() - was.mean(),
        "delta_low": delta_low,
        "delta_high": delta_high,
        "flips": gained + lost,
    }


def answer_notes(reference: pd.DataFrame, variant: pd.DataFrame) -> list[str]:
    """Name the first questions that the reference answers right and the variant wrong."""
    harmed = reference["right"].to_numpy(bool) & ~variant["right"].to_numpy(bool)
    pairs = zip(reference[harmed].itertuples(), variant[harmed].itertuples(), strict=True)
    notes = [
        f"{now.question_id} ({now.category}): the reference says {_short(was.text)}, which is "
        f"right; the variant says {_short(now.text)}"
        for was, now in list(pairs)[:_NAMED_FLIPS]
    ]
    if (rest := int(harmed.sum()) - len(notes)) > 0:
        notes.append(f"and {rest} more questions turned from right to wrong")
    return notes


def _short(text: object) -> str:
    words = repr(text)
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}..."
