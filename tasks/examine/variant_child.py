"""The child of `variant.py`: the suites in order, cheap and lethal first.

A variant that cannot decode is not examined further: what was not measured says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from tasks.core.errors import VariantUnusable
from tasks.core.graph import deviations, read_graph
from tasks.core.progress import report_progress
from tasks.core.records import Evidence, Question
from tasks.examine import (
    answer_metrics,
    answers,
    baits,
    decode,
    fidelity,
    guided,
    lengths,
    plain_text,
    positions,
    rotary,
    template,
)
from tasks.examine.generation import Engine
from tasks.examine.hugging_face import CheckpointTokenizer
from tasks.examine.metrics import Metrics, count, none_measured
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
    own_answers: pd.DataFrame = field(default_factory=pd.DataFrame)
    failure: str = ""

    @cached_property
    def limits(self) -> dict[str, int]:
        """New tokens that an answer may have, by question id."""
        return answer_limits(self.request.questions, self.tokenizer, self.request.protocol)

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
    _build(examination)
    _template(examination)
    _decode(examination)
    _unless_failed(
        examination,
        _fidelity,
        [*fidelity.METRIC_NAMES, *fidelity.TEXT_METRIC_NAMES, *positions.METRIC_NAMES],
    )
    _unless_failed(examination, _answers, answer_metrics.METRIC_NAMES)
    _unless_failed(examination, _baits, baits.METRIC_NAMES)
    _unless_failed(examination, _guided, guided.METRIC_NAMES)
    _unless_failed(examination, _lengths, lengths.METRIC_NAMES)
    examination.add({}, template.normalisation_notes(examination.tokenizer, examination.engine))
    return Evidence(
        suite="variant",
        subject=request.variant.digest,
        metrics=examination.metrics,
        notes=examination.notes,
    )


def _build(examination: _Examination) -> None:
    """Read the graph back: files of another variant pass every gate of quality."""
    request = examination.request
    graph = read_graph(request.folder)
    unlike = list(deviations(graph, request.variant.recipe))
    found = count(
        len(unlike), len(graph.matrices), "matrices unlike the recipe, read from the graph"
    )
    notes = [f"{unlike[0].message}: {unlike[0].got}"] if unlike else []
    examination.add({"build.bits_mismatches": found}, notes)
    examination.add(rotary.rotary_metrics(request.folder, request.reference_folder))


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
    request, protocol = examination.request, examination.request.protocol
    reference, context = Engine(request.reference_folder), examination.engine.context_length
    corpora = {
        fidelity.QUESTIONS: examination.sequences(protocol.kld_max_questions),
        fidelity.TEXT: plain_text.text_windows(
            examination.tokenizer, protocol.text, context_length=context
        ),
        fidelity.LONG: plain_text.long_windows(
            examination.tokenizer, protocol.text, context_length=context
        ),
    }
    rows = pd.concat(
        [
            fidelity.compare_with_reference(
                reference, examination.engine, sequences, report_progress, corpus=corpus
            )
            for corpus, sequences in corpora.items()
            if sequences
        ],
        ignore_index=True,
    )
    rows.to_parquet(request.frames / "kld.parquet")
    examination.add({}, plain_text.shortfall(corpora[fidelity.TEXT], protocol.text))
    examination.add(fidelity.fidelity_metrics(rows, protocol))
    examination.add(fidelity.fidelity_metrics(rows, protocol, corpus=fidelity.TEXT))
    metrics, buckets, notes = positions.position_metrics(rows, protocol)
    buckets.to_parquet(request.frames / "positions.parquet")
    examination.add(metrics, notes)


def _answers(examination: _Examination) -> None:
    request, reference = examination.request, examination.reference_answers
    given = answers.answer_questions(
        examination.engine, request.questions, examination.limits, report_progress
    )
    rows = answers.answers_frame(request.questions, given, reference)
    rows.to_parquet(request.frames / "answers.parquet")
    categories = answer_metrics.category_frame(reference, rows, level=request.protocol.level)
    categories.to_parquet(request.frames / "categories.parquet")
    examination.own_answers = rows
    examination.add(
        answer_metrics.answer_metrics(reference, rows, request.protocol),
        answers.answer_notes(reference, rows),
    )


def _baits(examination: _Examination) -> None:
    request = examination.request
    rows = baits.ask_baits(examination.engine, request.protocol.bait_tokens, report_progress)
    rows.to_parquet(request.frames / baits.FRAME)
    examination.add(
        *baits.bait_metrics(pd.read_parquet(request.reference_frames / baits.FRAME), rows)
    )


def _guided(examination: _Examination) -> None:
    request = examination.request
    metrics, notes, rows = guided.examine_guided(
        examination.engine,
        request.questions,
        examination.limits,
        examination.own_answers,
        examination.reference_answers,
        request.protocol,
        report_progress,
    )
    if len(rows):
        rows.to_parquet(request.frames / "guided.parquet")
    examination.add(metrics, notes)


def _lengths(examination: _Examination) -> None:
    request, own = examination.request, examination.own_answers
    asked = pd.read_parquet(request.reference_frames / "lengths.parquet")
    asking = lengths.Asking(
        examination.engine,
        examination.tokenizer,
        dict(zip(own["question_id"], own["text"], strict=True)),
        examination.limits,
        request.protocol,
        report_progress,
    )
    rows = lengths.ask_variant(asking, request.questions, asked)
    rows.to_parquet(request.frames / "lengths.parquet")
    examination.add(
        lengths.length_metrics(asked, rows, request.protocol), lengths.length_notes(asked, rows)
    )
