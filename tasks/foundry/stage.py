"""Examine a variant in Foundry Local before anything is registered: in a throw-away model index.

The variant's files are used where they lie in the store, and only read. What the numbers mean for
a release is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from tasks.core.child import Usage, run_child
from tasks.core.errors import VariantUnusable
from tasks.core.records import (
    Checkpoint,
    Cost,
    Digest,
    Evidence,
    Measurement,
    Message,
    Question,
    Record,
    Variant,
)
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.core.staging import Staging
from tasks.core.without_torch import WITHOUT_TORCH
from tasks.foundry.edge.suite import FAILURES, EdgeFound, EdgeRequest, put_all_cases
from tasks.foundry.reload import GROWTH, Reloaded, ReloadRequest, cycle_loads

# Raise it when staging measures something else: cached evidence is then made again.
REVISION = 3
MODEL_ID = "staged-cpu:1"
LOAD_CYCLES = 12
PLAIN = [Message(role="user", content="Hello, who are you?")]
ASKED_QUESTIONS = 6
DEADLINE_S = 3600.0


class StageRequest(Record):
    """What the child is asked for.

    Attributes:
        subject: digest of the variant.
        folder: its store object.
        checkpoint: the Hugging Face folder, for its tokenizer and chat template.
        index: an empty folder for the throw-away index.
        questions: asked through every way into the runtime.
    """

    subject: Digest
    folder: Path
    checkpoint: Path
    index: Path
    questions: list[Question]


class Staged(Record):
    """What the first child found.

    Attributes:
        answers: the model answers over HTTP: there is something to put edge cases to.
        odd_tokens: tokens that the checkpoint's tokenizer counts for the texts of the edge cases.
    """

    metrics: dict[str, Measurement]
    notes: list[str]
    answers: bool
    odd_tokens: dict[str, int]


def examine_in_staging(
    checkpoint: Checkpoint,
    variant: Variant,
    questions: list[Question],
    *,
    load_cycles: int = LOAD_CYCLES,
    settings: Settings,
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> Evidence:
    """Load a variant in a throw-away index and hold its prompts and answers against the tools'.

    Then edge cases are put to the web service, and the model is loaded and unloaded over and over;
    the frames hold `foundry_edge.parquet` and `foundry_cycles.parquet`.

    Args:
        checkpoint: what the variant was made from.
        variant: a variant in the store.
        questions: some of them are asked.
        load_cycles: loads and unloads after the warm-up.
        settings: where the store, the staging folder and the logs are.
        say: gets one line of progress.

    Returns:
        Evidence of suite `foundry`. What the runtime refuses of this variant is a metric without
        a value, with the runtime's reason in `method`.

    Raises:
        VariantUnusable: the store object is missing or incomplete.
        EnvironmentUnfit, TransientFault: this machine or Foundry Local itself, not the variant,
            is at fault: its web service does not start, breaks off, or is busy.
    """
    store = store_of(settings)
    folder = store.path(variant.digest)
    if not store.is_intact(variant.digest):
        raise VariantUnusable(
            f"the {variant.precision} variant {variant.digest[:12]} is not whole in the store",
            next_step="release again: the variant is built anew",
        )
    throw_away = Staging(settings.foundry_staging, settings.locks)
    throw_away.sweep()
    with throw_away.folder() as scratch, store.staging() as frames:
        request = StageRequest(
            subject=variant.digest,
            folder=folder,
            checkpoint=checkpoint.path,
            index=scratch / "index",
            questions=choose_questions(questions, ASKED_QUESTIONS),
        )
        stage = _Stage(request, scratch, frames, settings, say)
        staged = stage.compare_answers()
        if not staged.answers:
            return stage.evidence(staged.metrics, staged.notes)
        edges = stage.put_edge_cases(checkpoint, staged)
        reloaded = stage.cycle_loads(load_cycles)
        metrics = {**staged.metrics, **edges.metrics, GROWTH: reloaded.growth}
        notes = [*staged.notes, *reloaded.notes, *edges.notes]
        return stage.evidence(metrics, notes, frames=store.publish(frames))


class _Stage:
    """The children of one variant's examination, one after the other, and what they cost."""

    def __init__(
        self,
        request: StageRequest,
        scratch: Path,
        frames: Path,
        settings: Settings,
        say: Callable[[str], None],
    ) -> None:
        self._request = request
        self._scratch = scratch
        self._frames = frames
        self._log = settings.logs / f"foundry-stage-{request.subject[:12]}.log"
        self._say = say
        self._spent: list[Usage] = []

    def compare_answers(self) -> Staged:
        """Hold prompts and answers against the tools'."""
        self._request.index.mkdir()
        found, usage = run_child(
            "tasks.foundry.stage_child:examine",
            self._request,
            Staged,
            log=self._log,
            deadline_s=DEADLINE_S,
            environment=WITHOUT_TORCH,
            on_progress=self._say,
        )
        self._spent.append(usage)
        return found

    def put_edge_cases(self, checkpoint: Checkpoint, staged: Staged) -> EdgeFound:
        """Put edge cases to the web service, on an index of their own."""
        scratch = self._scratch / "edge"
        scratch.mkdir()
        request = EdgeRequest(
            subject=self._request.subject,
            folder=self._request.folder,
            scratch=scratch,
            frames=self._frames,
            conversations=plain_conversations(self._request.questions),
            parameters=checkpoint.parameters,
            hugging_face=staged.odd_tokens,
        )
        found, usage = put_all_cases(request, log=self._log, say=self._say)
        self._spent.append(usage)
        return found

    def cycle_loads(self, cycles: int) -> Reloaded:
        """Load and unload what the first child registered."""
        request = ReloadRequest(
            index=self._request.index,
            app_data=self._scratch / "app",
            model_id=MODEL_ID,
            messages=plain_conversations(self._request.questions)[0],
            cycles=cycles,
            frames=self._frames,
        )
        found, usage = cycle_loads(request, log=self._log, say=self._say)
        self._spent.append(usage)
        return found

    def evidence(
        self, metrics: dict[str, Measurement], notes: list[str], *, frames: Digest | None = None
    ) -> Evidence:
        """Put together what was found; metrics without a value get the reason of the first one."""
        unmeasured = Measurement(value=None, n=0)
        nothing = next((found for found in metrics.values() if found.value is None), unmeasured)
        return Evidence(
            suite="foundry",
            subject=self._request.subject,
            metrics={**dict.fromkeys((FAILURES, GROWTH), nothing), **metrics},
            notes=notes,
            frames=frames,
            cost=Cost(
                seconds=sum(usage.seconds for usage in self._spent),
                cpu_s=sum(usage.cpu_s for usage in self._spent),
                peak_rss_bytes=max(usage.peak_rss_bytes for usage in self._spent),
            ),
        )


def plain_conversations(questions: Sequence[Question]) -> list[list[Message]]:
    """Give what the edge cases ask where nothing is odd; the first is the plain question."""
    return [question.messages for question in questions] or [PLAIN]


def choose_questions(questions: list[Question], count: int) -> list[Question]:
    """Give the shortest questions, one of each category in turn, always the same ones.

    Questions with an empty message are left out: Foundry Local's web service drops such a message
    from the conversation, its sessions do not (measured, 2.2.1).
    """
    by_category: dict[str, list[Question]] = {}
    for question in sorted(questions, key=lambda each: (_length(each), each.id)):
        if all(message.content for message in question.messages):
            by_category.setdefault(question.category, []).append(question)
    rounds = zip_longest(*(by_category[name] for name in sorted(by_category)))
    return [question for question in chain(*rounds) if question is not None][:count]


def _length(question: Question) -> int:
    return sum(len(message.content) for message in question.messages)
