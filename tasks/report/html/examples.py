"""Answers that changed: how many, and the worst of them side by side with the reference's.

Compares rows by question; right and wrong were decided when the answers were taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.core.errors import IngotError
from tasks.core.questions import load_question_file
from tasks.core.records import Question, Release
from tasks.report.html.drawing import Material, NothingToDraw, Subject

if TYPE_CHECKING:
    import pandas as pd

SHOWN_EXAMPLES = 5
_LONGEST = 900
_REFERENCE = "reference"


@dataclass(frozen=True)
class Example:
    """One question that the reference answers right and the variant wrong."""

    question_id: str
    category: str
    question: str
    reference: str
    variant: str


@dataclass(frozen=True)
class Changes:
    """What became of the answers of one variant.

    Attributes:
        kept_right, turned_wrong, turned_right, kept_wrong: questions.
        examples: the worst of those that turned wrong.
    """

    label: str
    kept_right: int
    turned_wrong: int
    turned_right: int
    kept_wrong: int
    examples: list[Example]

    @property
    def n(self) -> int:
        """Questions that both were asked."""
        return self.kept_right + self.turned_wrong + self.turned_right + self.kept_wrong


@dataclass(frozen=True)
class Answers:
    """The answers of all variants; `note` says why the questions have no text, if so."""

    variants: list[Changes]
    note: str


def changes(material: Material) -> Answers:
    """Compare the answers of every variant with the reference's.

    Raises:
        NothingToDraw: the run has no rows of answers, or none of the reference.
    """
    rows = material.frame("outputs", "question_id", "text", "right", "suite")
    reference = _reference_rows(material)
    texts, note = _questions_of(material.run.release)
    return Answers(
        variants=[
            _changes_of(subject, reference, _once(part), texts, _badness(material, subject))
            for subject, part in material.by_subject(rows).items()
        ],
        note=note,
    )


def _reference_rows(material: Material) -> pd.DataFrame:
    rows = material.run.frame("outputs")
    found = _once(rows[rows["suite"] == _REFERENCE])
    if found.empty:
        raise NothingToDraw("the rows `outputs` have none of the reference")
    return found


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates("question_id").set_index("question_id")


def _changes_of(
    subject: Subject,
    reference: pd.DataFrame,
    variant: pd.DataFrame,
    texts: Mapping[str, str],
    badness: Mapping[str, float],
) -> Changes:
    both = [name for name in reference.index if name in variant.index]
    was, now = reference.loc[both], variant.loc[both]
    before, after = was["right"].to_numpy(bool), now["right"].to_numpy(bool)
    harmed = [name for name, lost in zip(both, before & ~after, strict=True) if lost]
    harmed.sort(key=lambda name: (-badness.get(name, 0.0), name))
    return Changes(
        label=subject.label,
        kept_right=int((before & after).sum()),
        turned_wrong=len(harmed),
        turned_right=int((~before & after).sum()),
        kept_wrong=int((~before & ~after).sum()),
        examples=[
            Example(
                question_id=str(name),
                category=str(now["category"][name]) if "category" in now else "",
                question=_short(texts.get(str(name), "")),
                reference=_short(str(was["text"][name])),
                variant=_short(str(now["text"][name])),
            )
            for name in harmed[:SHOWN_EXAMPLES]
        ],
    )


def _badness(material: Material, subject: Subject) -> Mapping[str, float]:
    """Give the largest divergence in each answer: where it is largest, something broke."""
    try:
        rows = material.frame("kld", "question_id", "kld")
    except NothingToDraw:
        return {}
    own = rows[rows["variant_id"] == subject.digest]
    if "corpus" in own:
        own = own[own["corpus"] == "questions"]
    worst = own.groupby("question_id")["kld"].max()
    return {str(name): float(value) for name, value in worst.items()}


def _questions_of(release: Release) -> tuple[Mapping[str, str], str]:
    """Give the questions' texts, or why not: the file may have gone or changed since the run."""
    if release.questions is None:
        return {}, "The run does not say where its questions were."
    try:
        questions = load_question_file(release.questions)
    except IngotError as problem:
        return {}, f"The questions' texts are not at hand: {problem.message}."
    return {question.id: _asked(question) for question in questions}, ""


def _asked(question: Question) -> str:
    earlier = sum(message.role == "user" for message in question.messages) - 1
    before = f"(after {earlier} earlier turn{'s' if earlier > 1 else ''}) " if earlier else ""
    return f"{before}{question.messages[-1].content}"


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} … ({len(text):,} characters)"
