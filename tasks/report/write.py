"""Publishing a run's evidence as one folder: report.html, report.md, metrics.json, raw rows.

Built aside and renamed last, so a report that exists is complete. What the report says is written
in `html/`, `markdown.py` and `metrics_json.py`; the page is made from the finished folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.child import run_child
from tasks.core.errors import InputError
from tasks.core.files import write_text_atomically
from tasks.core.records import Evidence, Release
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.core.staging import Staging
from tasks.report.frames import FrameSource, FramesRequest, FramesSummary, measurement_rows
from tasks.report.html.page_records import PAGE, PageRequest, PageSummary
from tasks.report.markdown import render_report
from tasks.report.metrics_json import METRICS_FILE, Dossier, StepTiming, metrics_json

__all__ = ["StepTiming", "report_folder", "write_page", "write_report"]

REPORT = "report.md"
DEADLINE_S = 600.0
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def report_folder(settings: Settings, run_id: str) -> Path:
    """Give the folder of a run, whether or not it is written yet.

    Raises:
        InputError: the run's name is not a plain folder name.
    """
    if not _RUN_ID.fullmatch(run_id) or run_id.endswith(".partial"):
        raise InputError(
            f"{run_id!r} cannot name a folder of evidence",
            expected="letters, digits, dot, dash, plus and underscore",
        )
    return settings.runs / run_id


def write_report(
    release: Release,
    evidence: Sequence[Evidence],
    *,
    settings: Settings,
    timings: Sequence[StepTiming] = (),
    policy_digest: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write everything that is known of a run, and give its folder.

    A run that is written again replaces its folder: the later state of one run is the true one.

    Args:
        release: the outcome.
        evidence: of all examinations.
        settings: where the folder goes.
        timings: of the steps, in the order in which they ended.
        policy_digest: of the gates that the release was judged by.
        say: gets one line of progress.

    Raises:
        InputError: the run's name is not a plain folder name.
        TransientFault: a child that collects the raw rows or draws was killed or too slow.
        ToolFailed: raw rows of one kind contradict each other's types, or metrics.json does not
            meet its schema; nothing is published then.
        DoesNotFit, OSError: the disk is full or read-only; likewise.
    """
    folder = report_folder(settings, release.run_id)
    staging = Staging(settings.runs, settings.locks)
    with staging.folder() as scratch:
        partial = scratch / folder.name
        partial.mkdir()
        summary = _collect(release, evidence, partial, settings, say)
        dossier = Dossier(
            release=release.model_copy(update={"report": folder / PAGE}),
            evidence=list(evidence),
            timings=list(timings),
            written_at=datetime.now(UTC),
            index=settings.foundry,
            frames=summary.rows,
            frames_missing=summary.missing,
            policy_digest=policy_digest,
        )
        write_text_atomically(partial / METRICS_FILE, metrics_json(dossier))
        write_text_atomically(partial / REPORT, render_report(dossier))
        write_page(partial, release.run_id, settings, say)
        staging.publish(partial, folder)
    return folder


def _collect(
    release: Release,
    evidence: Sequence[Evidence],
    target: Path,
    settings: Settings,
    say: Callable[[str], None],
) -> FramesSummary:
    sources = _sources(evidence)
    for source in sources:
        store_of(settings).path(source.frames)  # the child looks on this machine only
    request = FramesRequest(
        run_id=release.run_id,
        store=settings.store,
        sources=sources,
        measurements=measurement_rows(
            release.metrics, {variant.digest: variant.precision for variant in release.variants}
        ),
        target=target,
    )
    summary, _ = run_child(
        "tasks.report.frames:collect_frames",
        request,
        FramesSummary,
        log=settings.logs / f"report-{release.run_id}.log",
        deadline_s=DEADLINE_S,
        on_progress=say,
    )
    return summary


def write_page(
    folder: Path, run_id: str, settings: Settings, say: Callable[[str], None] = lambda _: None
) -> PageSummary:
    """Write report.html into a run's folder, from what the folder holds.

    Raises:
        InputError: the folder holds no run that can be read.
        TransientFault: the child that draws was killed or too slow.
    """
    summary, _ = run_child(
        "tasks.report.html.page:render_page",
        PageRequest(folder=folder),
        PageSummary,
        log=settings.logs / f"report-{run_id}.log",
        deadline_s=DEADLINE_S,
        on_progress=say,
    )
    return summary


def _sources(evidence: Sequence[Evidence]) -> list[FrameSource]:
    """Name each object once, with all its subjects."""
    subjects: dict[tuple[str, str], list[str]] = {}
    for part in evidence:
        if part.frames is not None:
            subjects.setdefault((part.suite, part.frames), []).append(part.subject)
    return [
        FrameSource(suite=suite, subjects=found, frames=frames)
        for (suite, frames), found in subjects.items()
    ]
