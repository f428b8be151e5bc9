"""What can be said about a request before anything is spent: its files and its recipes.

Runs in milliseconds and imports neither Prefect nor a tool, so that the command refuses bad input
at once; the flow asks the same again, because a schedule has no command in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.form import placed
from flows.parameters import ReleaseRequest
from tasks.checkpoint.admit import choose_name, inspect_checkpoint
from tasks.core.errors import QuestionsRefused
from tasks.core.housekeeping import require_writable
from tasks.core.questions import load_questions, questions_digest
from tasks.core.records import Conditions, Question, QuestionFile, Recipe
from tasks.core.settings import Settings
from tasks.examine.protocol import Protocol
from tasks.judge.policy import Policy, load_policy
from tasks.variants.recipes import plan_recipes

QUESTIONS_NAME = "questions.jsonl"


@dataclass(frozen=True)
class Order:
    """A request whose input files could be read.

    Attributes:
        name: of the release, as it is in Foundry Local.
        weight_files: names of the safetensors files in use.
        recipes: one for each precision asked for, in the order of preference.
        question: the one that the registered champion is asked.
        protocol: how the variants are examined.
    """

    name: str
    checkpoint: Path
    weight_files: list[str]
    recipes: list[Recipe]
    questions: QuestionFile
    question: Question
    protocol: Protocol
    policy: Policy

    @property
    def conditions(self) -> Conditions:
        """Say what the variants are measured with."""
        return Conditions(
            questions=self.questions.digest,
            profile=self.protocol.profile,
            revision=self.protocol.revision,
        )

    @property
    def in_one_line(self) -> str:
        """Say what will be asked, and when a file is longer than that."""
        count, first = self.questions.count, self.protocol.max_questions
        if count <= first:
            return f"{count:,} questions of {self.questions.path}"
        second = self.protocol.second_look()
        most = min(count, second.max_questions if second else first)
        more = f", {most:,} where that decides nothing" if second else ""
        return f"{first:,} of the {count:,} questions of {self.questions.path}{more}"


def check_request(request: ReleaseRequest) -> Order:
    """Read what the request names.

    Raises:
        InputError: a file is missing or wrong, or the options contradict each other.
        EnvironmentUnfit: nothing can be kept in INGOT_HOME.
    """
    checkpoint = placed(request.checkpoint, "the checkpoint folder")
    name = choose_name(request.name, checkpoint)
    inspection = inspect_checkpoint(checkpoint)
    path = _question_file(request, checkpoint)
    questions = load_questions(path)
    overrides = request.options.model_dump(exclude_none=True)
    order = Order(
        name=name,
        checkpoint=checkpoint,
        weight_files=[shard.path.name for shard in inspection.weights.shards],
        recipes=plan_recipes(
            request.precisions,
            profile=request.profile,
            overrides=overrides,
            builder=request.builder,
        ),
        questions=QuestionFile(path=path, digest=questions_digest(questions), count=len(questions)),
        question=questions[0],
        protocol=Protocol.of(request.examination).for_questions(len(questions)),
        policy=load_policy(placed(request.policy, "the policy file") if request.policy else None),
    )
    require_writable(Settings())  # last: what the user can mend in the request comes first
    return order


def _question_file(request: ReleaseRequest, checkpoint: Path) -> Path:
    if request.questions is not None:
        return placed(request.questions, "the question file")
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
