"""Examine one variant against the reference: template, decoding, fidelity, answers, size.

The parent side; everything heavy is in `variant_child.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.core.errors import ToolFailed
from tasks.core.questions import questions_digest
from tasks.core.records import Checkpoint, Evidence, Measurement, Question, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.core.store import Store
from tasks.core.without_torch import WITHOUT_TORCH
from tasks.examine.examination import (
    FramesRequest,
    Say,
    deadline_s,
    examine_in_child,
    intact_folder,
)
from tasks.examine.protocol import Protocol, sample_questions
from tasks.examine.reference import QUESTIONS_FILE

_PASSES = 3  # answers, and the fidelity on the reference and on the variant


class VariantRequest(FramesRequest):
    """What the child needs to examine a variant."""

    checkpoint: Checkpoint
    variant: Variant
    folder: Path
    reference_folder: Path
    reference_frames: Path
    questions: list[Question]
    protocol: Protocol


def examine_variant(
    checkpoint: Checkpoint,
    reference: Variant,
    reference_evidence: Evidence,
    variant: Variant,
    questions: Sequence[Question],
    *,
    protocol: Protocol,
    settings: Settings,
    say: Say = lambda _line: None,
) -> Evidence:
    """Measure what quantisation cost.

    The frames hold `kld.parquet` (a row a token), `answers.parquet` (a row a question) and
    `categories.parquet`; those of suites that could not run are absent.

    Raises:
        VariantUnusable: the variant does not load, or is not what was built.
        ToolFailed: the reference's answers are gone or belong to other questions.
    """
    store = store_of(settings)
    folder = intact_folder(variant, store)
    reference_folder = intact_folder(reference, store)
    asked = sample_questions(questions, protocol.max_questions, protocol.seed)
    reference_frames = _frames_of(reference_evidence, store)
    _require_answers_to(asked, reference_frames)
    evidence, frames, cost = examine_in_child(
        "tasks.examine.variant_child:examine",
        lambda frames: VariantRequest(
            frames=frames,
            checkpoint=checkpoint,
            variant=variant,
            folder=folder,
            reference_folder=reference_folder,
            reference_frames=reference_frames,
            questions=asked,
            protocol=protocol,
        ),
        Evidence,
        log_name=f"examine-{variant.precision}-{variant.digest[:12]}.log",
        deadline_s=deadline_s(checkpoint.parameters, asked, protocol, passes=_PASSES),
        settings=settings,
        say=say,
        environment=WITHOUT_TORCH,
    )
    metrics = {**_size(checkpoint, variant), **evidence.metrics}
    return evidence.model_copy(update={"frames": frames, "metrics": metrics, "cost": cost})


def _frames_of(evidence: Evidence, store: Store) -> Path:
    if evidence.frames is None or not store.is_intact(evidence.frames, deep=True):
        if evidence.frames is not None:
            store.discard(evidence.frames)  # or a cache hit would bring the damaged ones back
        raise ToolFailed(
            "the reference's answers are not in the store",
            expected=f"frames {evidence.frames}",
            got="missing or changed files",
            next_step="run the release again: the reference is examined anew",
        )
    return store.path(evidence.frames)


def _require_answers_to(asked: Sequence[Question], frames: Path) -> None:
    """Refuse answers to other questions: a changed text or expectation counts, not the id alone."""
    answered = (frames / QUESTIONS_FILE).read_text(encoding="ascii").strip()
    if answered != (wanted := questions_digest(list(asked))):
        raise ToolFailed(
            "the reference answered other questions",
            expected=f"answers to these {len(asked)} questions, digest {wanted[:12]}",
            got=f"answers to those of digest {answered[:12]}",
            next_step="examine the reference again",
        )


def _size(checkpoint: Checkpoint, variant: Variant) -> dict[str, Measurement]:
    return {
        "size.bytes": Measurement(
            value=float(variant.size_bytes), unit="B", method="all files of the folder"
        ),
        "size.ratio_to_source": Measurement(
            value=variant.size_bytes / checkpoint.source_bytes,
            method="all files of the folder over the checkpoint's safetensors files",
        ),
    }
