"""The child of `variant.py`: the suites in order, cheap and lethal first.

A variant that cannot decode is not examined further: what was not measured says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from tasks.core.errors import VariantUnusable
from tasks.core.progress import report_progress
from tasks.core.records import Evidence, Question
from tasks.examine import answers, decode, fidelity, template
from tasks.examine.generation import Engine
from tasks.examine.hugging_face import CheckpointTokenizer
from tasks.examine.metrics import Metrics, none_measured
from tasks.examine.protocol import sample_questions
from tasks.examine.sequences import Forced, answer_limits, forced_sequences
from tasks.examine.variant import VariantRequest

TEMPLATE_QUESTIONS = 100


@dataclass
class _Examination:
    """One variant under examination; each suite adds what it found."""

    request: VariantRequest
    tokenizer: CheckpointTokenizer
    engine: Engine
    reference_answers: pd.DataFrame
    metrics: Metrics = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failure: str = ""

    def add(self, metrics: Metrics, notes: Sequence[str] = ()) -> None:
        """Take over what a suite found."""
        self.metrics.update(metrics)
        self.notes.extend(notes)

    def sequences(self, count: int) -> list[Forced]:
        """Give forced sequences of a sample of the questions."""
        return forced_sequences(
            self.sample(count),
            self.tokenizer,
            dict(
                zip(
                    self.reference_answers["question_id"],
                    self.reference_answers["tokens"],
                    strict=True,
                )
            ),
            context_length=self.engine.context_length,
        )

    def sample(self, count: int) -> list[Question]:
        """Give a sample of the questions, the same for every variant."""
        return sample_questions(self.request.questions, count, self.request.protocol.seed)


def examine(request: VariantRequest) -> Evidence:
    """Run all suites on one variant."""
    report_progress("loading the variant")
    examination = _Examination(
        request,
        CheckpointTokenizer(request.checkpoint.path),
        Engine(request.folder),
        pd.read_parquet(request.reference_frames / "answers.parquet"),
    )
    _template(examination)
    _decode(examination)
    _unless_failed(examination, _fidelity, fidelity.METRIC_NAMES)
    _unless_failed(examination, _answers, answers.METRIC_NAMES)
    examination.add({}, template.normalisation_notes(examination.tokenizer, examination.engine))
    return Evidence(
        suite="variant",
        subject=request.variant.digest,
        metrics=examination.metrics,
        notes=examination.notes,
    )


def _template(examination: _Examination) -> None:
    found = template.examine_template(
        examination.tokenizer,
        examination.engine,
        examination.sample(TEMPLATE_QUESTIONS),
        end_of_turn=examination.tokenizer.end_of_turn(),
        eos_token_ids=examination.engine.eos_token_ids,
    )
    examination.add(*found)


def _decode(examination: _Examination) -> None:
    protocol = examination.request.protocol
    sequences = [
        forced.cut(protocol.decode_max_tokens)
        for forced in examination.sequences(protocol.decode_max_questions)
    ]
    metrics, notes = decode.examine_decoding(
        examination.engine, sequences, protocol, report_progress
    )
    examination.add(metrics, notes)
    if metrics["decode.failed"].value:
        examination.failure = "the variant cannot decode"


def _unless_failed(
    examination: _Examination, suite: Callable[[_Examination], None], names: Sequence[str]
) -> None:
    """Run a suite; after the first that fails, say of the others why they have no numbers."""
    if not examination.failure:
        try:
            suite(examination)
            return
        except VariantUnusable as problem:
            examination.failure = problem.message
            examination.notes.insert(0, problem.message)
    examination.add(none_measured(names, f"not measured: {examination.failure}"))


def _fidelity(examination: _Examination) -> None:
    request = examination.request
    rows = fidelity.compare_with_reference(
        Engine(request.reference_folder),
        examination.engine,
        examination.sequences(request.protocol.kld_max_questions),
        report_progress,
    )
    rows.to_parquet(request.frames / "kld.parquet")
    examination.add(fidelity.fidelity_metrics(rows, request.protocol))


def _answers(examination: _Examination) -> None:
    request, reference = examination.request, examination.reference_answers
    limits = answer_limits(request.questions, examination.tokenizer, request.protocol)
    given = answers.answer_questions(examination.engine, request.questions, limits, report_progress)
    rows = answers.answers_frame(request.questions, given)
    rows.to_parquet(request.frames / "answers.parquet")
    answers.category_frame(reference, rows).to_parquet(request.frames / "categories.parquet")
    examination.add(answers.answer_metrics(reference, rows), answers.answer_notes(reference, rows))
