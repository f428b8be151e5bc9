"""Examine a variant in Foundry Local before anything is registered: in a throw-away model index.

The variant's files are used where they lie in the store, and only read. What the numbers mean for
a release is decided elsewhere.
"""

from __future__ import annotations

import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, zip_longest
from os import getpid
from pathlib import Path

import psutil

from tasks.core.child import run_child
from tasks.core.errors import VariantUnusable
from tasks.core.records import Checkpoint, Cost, Digest, Evidence, Question, Record, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store

# Raise it when staging measures something else: cached evidence is then made again.
REVISION = 2
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


def examine_in_staging(
    checkpoint: Checkpoint,
    variant: Variant,
    questions: list[Question],
    *,
    settings: Settings,
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> Evidence:
    """Load a variant in a throw-away index and hold its prompts and answers against the tools'.

    Returns:
        Evidence of suite `foundry`. What the runtime refuses of this variant is a metric without
        a value, with the runtime's reason in `method`.

    Raises:
        VariantUnusable: the store object is missing or incomplete.
        EnvironmentUnfit, TransientFault: this machine or Foundry Local itself, not the variant,
            is at fault: its web service does not start, breaks off, or is busy.
    """
    store = Store(settings.store)
    if not store.is_intact(variant.digest):
        raise VariantUnusable(
            f"the {variant.precision} variant {variant.digest[:12]} is not whole in the store",
            next_step="release again: the variant is built anew",
        )
    with _throw_away_index(settings.foundry_staging) as index:
        request = StageRequest(
            subject=variant.digest,
            folder=store.path(variant.digest),
            checkpoint=checkpoint.path,
            index=index,
            questions=choose_questions(questions, ASKED_QUESTIONS),
        )
        evidence, usage = run_child(
            "tasks.foundry.stage_child:examine",
            request,
            Evidence,
            log=settings.logs / f"foundry-stage-{variant.digest[:12]}.log",
            deadline_s=DEADLINE_S,
            on_progress=say,
        )
    cost = Cost(seconds=usage.seconds, cpu_s=usage.cpu_s, peak_rss_bytes=usage.peak_rss_bytes)
    return evidence.model_copy(update={"cost": cost})


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


@contextmanager
def _throw_away_index(root: Path) -> Iterator[Path]:
    _sweep(root)
    index = root / f"{socket.gethostname()}-{getpid()}-{uuid.uuid4().hex[:12]}"
    index.mkdir(parents=True)
    try:
        yield index
    finally:
        shutil.rmtree(index, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove indexes whose process was killed; only this machine's processes can be seen."""
    for folder in root.glob(f"{socket.gethostname()}-*-*"):
        if not psutil.pid_exists(int(folder.name.rsplit("-", 2)[1])):
            shutil.rmtree(folder, ignore_errors=True)
