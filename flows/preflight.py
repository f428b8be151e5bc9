"""What can be said about a request before anything is spent: its files and its recipes.

Runs in milliseconds and imports neither Prefect nor a tool, so that the command refuses bad input
at once; the flow asks the same again, because a schedule has no command in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.parameters import ReleaseRequest
from tasks.checkpoint.admit import choose_name, inspect_checkpoint
from tasks.core.errors import QuestionsRefused
from tasks.core.questions import MOST_QUESTIONS, load_questions, questions_digest
from tasks.core.records import Question, QuestionFile, Recipe
from tasks.judge.policy import Policy, load_policy
from tasks.variants.recipes import plan_recipes

QUESTIONS_NAME = "questions.jsonl"


@dataclass(frozen=True)
class Order:
    """A request whose input files could be read.

    Attributes:
        recipes: one for each precision asked for, in the order of preference.
        question: the one that the registered champion is asked.
    """

    checkpoint: Path
    recipes: list[Recipe]
    questions: QuestionFile
    question: Question
    policy: Policy

    @property
    def in_one_line(self) -> str:
        """Say what will be asked, and when a file is longer than that."""
        count = self.questions.count
        if count <= MOST_QUESTIONS:
            return f"{count:,} questions of {self.questions.path}"
        return (
            f"{MOST_QUESTIONS:,} of the {count:,} questions of {self.questions.path}, "
            "each category keeping its share"
        )


def check_request(request: ReleaseRequest) -> Order:
    """Read what the request names.

    Raises:
        InputError: a file is missing or wrong, or the options contradict each other.
    """
    checkpoint = request.checkpoint.expanduser().absolute()
    choose_name(request.name, checkpoint)
    inspect_checkpoint(checkpoint)
    path = _question_file(request, checkpoint)
    questions = load_questions(path)
    overrides = request.options.model_dump(exclude_none=True)
    return Order(
        checkpoint=checkpoint,
        recipes=plan_recipes(request.precisions, profile=request.profile, overrides=overrides),
        questions=QuestionFile(path=path, digest=questions_digest(questions), count=len(questions)),
        question=questions[0],
        policy=load_policy(request.policy.expanduser() if request.policy else None),
    )


def _question_file(request: ReleaseRequest, checkpoint: Path) -> Path:
    if request.questions is not None:
        return request.questions.expanduser().absolute()
    candidates = [checkpoint / QUESTIONS_NAME, checkpoint.parent / QUESTIONS_NAME]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise QuestionsRefused(
        "there are no domain questions to examine the variants with",
        expected=f"{QUESTIONS_NAME} in the checkpoint folder or beside it",
        got="neither",
        next_step="write one question a line (see docs/questions.md) and pass --questions FILE",
    )
