"""The child of `edge.py`: runs the cases that are left, and writes all of them down.

A case that ends this process leaves its name in the journal; the parent goes on from there.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Sequence

import pandas as pd

from tasks.core.errors import VariantUnusable
from tasks.core.progress import report_progress
from tasks.core.records import Evidence
from tasks.examine.edge.case import Case, Subject, failure
from tasks.examine.edge.cases import all_cases, run_case
from tasks.examine.edge.edge import EdgeRequest
from tasks.examine.edge.journal import Begun, Journal, Outcome
from tasks.examine.edge.raw import RawEngine
from tasks.examine.metrics import Metrics, count


def examine(request: EdgeRequest) -> Evidence:
    """Run the suite, from where the journal ends."""
    return examine_cases(request, all_cases())


def examine_cases(request: EdgeRequest, cases: Sequence[Case]) -> Evidence:
    """Run these cases, but for those whose outcome is in the journal."""
    journal = Journal(request.journal)
    done = journal.outcomes()
    left = [case for case in cases if case.name not in done]
    if request.gives_up:
        for case in left:
            journal.end(_begun(case).failed("not run: too many cases before it ended the process"))
    elif left:
        _run(left, _load(request), journal, request.patience_s)
    done = journal.outcomes()
    outcomes = [done[case.name] for case in cases]
    frame = pd.DataFrame([outcome.model_dump() for outcome in outcomes])
    frame.to_parquet(request.frames / "edge.parquet")
    return Evidence(
        suite="edge",
        subject=request.variant.digest,
        metrics=edge_metrics(outcomes),
        notes=edge_notes(outcomes),
    )


def _run(cases: Sequence[Case], subject: Subject, journal: Journal, patience_s: float) -> None:
    for number, case in enumerate(cases, start=1):
        report_progress(f"edge cases {number}/{len(cases)}: {case.name}")
        journal.begin(_begun(case))
        journal.end(_bounded(case, subject, patience_s))


def _begun(case: Case) -> Begun:
    return Begun(case=case.name, expected=case.expected)


def edge_metrics(outcomes: Sequence[Outcome]) -> Metrics:
    """Count the cases, and those that failed."""
    how = "cases at and beyond the edges of valid input, ONNX Runtime GenAI on the variant's folder"
    failed = sum(not outcome.passed for outcome in outcomes)
    return {
        "edge.failures": count(failed, len(outcomes), f"failed {how}"),
        "edge.cases": count(len(outcomes), len(outcomes), how),
    }


def edge_notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Name each case that failed, with what was expected and what came."""
    return [
        f"edge case '{outcome.case}': expected {outcome.expected}; got {outcome.got}"
        for outcome in outcomes
        if not outcome.passed
    ]


def _load(request: EdgeRequest) -> Subject:
    report_progress("loading the variant")
    engines: list[RawEngine] = []
    words = failure(lambda: engines.append(RawEngine(request.folder)))
    if words is not None:
        raise VariantUnusable(
            f"cannot load {request.folder.name}: {words}",
            next_step="build the variant again, with other options if it fails again",
        )
    subject = Subject(
        engines[0], request.folder, request.scratch, request.patience_s, request.protocol.seed
    )
    # Now, before any case: an engine that fails here fails after every case, and is told there.
    failure(lambda: (subject.usual, subject.usual_tokens))
    return subject


def _bounded(case: Case, subject: Subject, patience_s: float) -> Outcome:
    """Run a case in limited time; beyond it the process ends, even within the engine."""
    # A thread of our own would wait for the GIL, which a hanging engine holds.
    faulthandler.dump_traceback_later(patience_s, exit=True)
    try:
        return run_case(case, subject)
    finally:
        faulthandler.cancel_dump_traceback_later()
