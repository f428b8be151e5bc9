"""The child of `reference.py`: answers of the FP32 ONNX model, and the control against its source.

Runs once for a checkpoint and its questions; every variant is later compared with what it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from tasks.core.progress import report_progress
from tasks.core.records import Evidence, Measurement
from tasks.examine.answer_metrics import reference_metrics
from tasks.examine.answers import answer_questions, answers_frame
from tasks.examine.baits import FRAME as BAITS
from tasks.examine.baits import ask_baits
from tasks.examine.divergence import distances
from tasks.examine.fidelity import CONTROL, mean_kld, token_frame
from tasks.examine.generation import Engine
from tasks.examine.hugging_face import CheckpointTokenizer, hugging_face_logits
from tasks.examine.lengths import Asking, ask_reference
from tasks.examine.plain_text import control_windows
from tasks.examine.protocol import Protocol, sample_questions
from tasks.examine.reference import QUESTIONS_FILE, ReferenceRequest
from tasks.examine.sequences import Forced, answer_limits, forced_sequences


def examine(request: ReferenceRequest) -> Evidence:
    """Ask the reference every question, then compare its logits with Hugging Face's."""
    protocol = request.protocol
    report_progress("loading the reference")
    tokenizer = CheckpointTokenizer(request.checkpoint.path)
    engine = Engine(request.folder)
    limits = answer_limits(request.questions, tokenizer, protocol)
    answers = answer_questions(engine, request.questions, limits, report_progress)
    rows = answers_frame(request.questions, answers)
    rows.to_parquet(request.frames / "answers.parquet")
    (request.frames / QUESTIONS_FILE).write_text(request.questions_digest, encoding="ascii")
    ask_baits(engine, protocol.bait_tokens, report_progress).to_parquet(request.frames / BAITS)
    in_filler, left_out = _in_filler(request, engine, tokenizer, rows, limits)
    in_filler.to_parquet(request.frames / "lengths.parquet")

    report_progress("comparing the reference with Hugging Face")
    control = forced_sequences(
        sample_questions(request.questions, protocol.control_max_questions, protocol.seed),
        tokenizer,
        {answer.question_id: answer.tokens for answer in answers},
        context_length=engine.context_length,
    )
    windows = control_windows(tokenizer, protocol, context_length=engine.context_length)
    answered = [one.cut(protocol.control_max_tokens) for one in control]
    tokens = _control(request, engine, [*answered, *windows])
    tokens.to_parquet(request.frames / "control.parquet")
    return Evidence(
        suite="reference",
        subject=request.reference.digest,
        metrics={
            "reference.kld_mean": control_metric(
                tokens, len(answered), len(request.questions), protocol
            ),
            **reference_metrics(rows, level=protocol.level),
        },
        notes=[*_notes(rows), *left_out],
    )


def control_metric(
    tokens: pd.DataFrame, compared: int, asked: int, protocol: Protocol
) -> Measurement:
    """Give the divergence of the control, and say what it was measured on.

    Args:
        tokens: a row a compared token, of answers and of plain text.
        compared: questions whose answers are among them.
        asked: questions that the reference answered.
        protocol: says how many of them are compared, and how many tokens of each.
    """
    kld = mean_kld(tokens, protocol, corpus=CONTROL)
    how = (
        f"FP32 ONNX against Hugging Face FP32; {compared} of {asked} questions sampled, and "
        f"windows of plain text, at most {protocol.control_max_tokens} tokens of each, "
        f"{len(tokens)} in all; {kld.method}"
    )
    return kld.model_copy(update={"method": how})


def _in_filler(
    request: ReferenceRequest,
    engine: Engine,
    tokenizer: CheckpointTokenizer,
    rows: pd.DataFrame,
    limits: Mapping[str, int],
) -> tuple[pd.DataFrame, list[str]]:
    """Ask questions in the middle of filler: what the reference cannot do, no variant can lose."""
    unfilled = dict(zip(rows["question_id"], rows["text"], strict=True))
    asking = Asking(engine, tokenizer, unfilled, limits, request.protocol, report_progress)
    return ask_reference(asking, request.questions, rows.loc[rows["right"], "question_id"])


def _control(
    request: ReferenceRequest, engine: Engine, sequences: Sequence[Forced]
) -> pd.DataFrame:
    """Compare question by question; both FP32 models are in memory here, and nowhere else."""
    truth = hugging_face_logits(
        request.checkpoint.path, ((forced.tokens, forced.start) for forced in sequences)
    )
    frames = []
    for number, (forced, logits) in enumerate(zip(sequences, truth, strict=True), start=1):
        found = distances(
            [logits], engine.logits(forced.tokens, start=forced.start), forced.next_tokens
        )
        frames.append(token_frame(forced, found, corpus=CONTROL))
        report_progress(f"comparing the reference with Hugging Face {number}/{len(sequences)}")
    return pd.concat(frames, ignore_index=True)


def _notes(rows: pd.DataFrame) -> list[str]:
    running = rows[~rows["stopped"]]
    if running.empty:
        return []
    named = ", ".join(running["question_id"].head(5))
    return [f"{len(running)} of the reference's own answers run to the limit: {named}"]
