"""Examine the FP32 ONNX reference: is it the checkpoint, and what does it answer?

The parent side; everything heavy is in `reference_child.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.core.questions import questions_digest
from tasks.core.records import Checkpoint, Digest, Evidence, Question, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.examine.examination import (
    FramesRequest,
    Say,
    deadline_s,
    examine_in_child,
    intact_folder,
)
from tasks.examine.protocol import Protocol, sample_questions

_PASSES = 2  # answers, and a part of them again in the control

# In the frames, beside the answers: the digest of the questions that were answered.
QUESTIONS_FILE = "questions.sha256"


class ReferenceRequest(FramesRequest):
    """What the child needs to examine the reference."""

    checkpoint: Checkpoint
    reference: Variant
    folder: Path
    questions: list[Question]
    questions_digest: Digest
    protocol: Protocol


def examine_reference(
    checkpoint: Checkpoint,
    reference: Variant,
    questions: Sequence[Question],
    *,
    protocol: Protocol,
    settings: Settings,
    say: Say = lambda _line: None,
) -> Evidence:
    """Measure how far the FP32 ONNX model is from Hugging Face, and collect its answers.

    The frames hold `answers.parquet`, the yardstick of all variants, `control.parquet`, and which
    questions were answered.

    Raises:
        VariantUnusable: the reference does not load, decode, or is not what was built.
        QuestionsRefused: a question does not fit into the context.
    """
    folder = intact_folder(reference, store_of(settings))
    asked = sample_questions(questions, protocol.max_questions, protocol.seed)
    evidence, frames, cost = examine_in_child(
        "tasks.examine.reference_child:examine",
        lambda frames: ReferenceRequest(
            frames=frames,
            checkpoint=checkpoint,
            reference=reference,
            folder=folder,
            questions=asked,
            questions_digest=questions_digest(asked),
            protocol=protocol,
        ),
        Evidence,
        log_name=f"examine-reference-{reference.digest[:12]}.log",
        deadline_s=deadline_s(checkpoint.parameters, asked, protocol, passes=_PASSES),
        settings=settings,
        say=say,
    )
    return evidence.model_copy(update={"frames": frames, "cost": cost})
