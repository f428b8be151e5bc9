"""Publishing a run's evidence as one folder: report.md, metrics.json, raw rows as parquet.

Built aside and renamed last, so a report that exists is complete. What the report says is written
in `markdown.py` and `metrics_json.py`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.child import run_child
from tasks.core.errors import InputError
from tasks.core.files import sync_file, sync_folder, write_text_atomically
from tasks.core.records import Evidence, Release
from tasks.core.settings import Settings
from tasks.report.frames import FrameSource, FramesRequest, FramesSummary
from tasks.report.markdown import render_report
from tasks.report.metrics_json import Dossier, StepTiming, metrics_json

__all__ = ["StepTiming", "report_folder", "write_report"]

REPORT = "report.md"
METRICS = "metrics.json"
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
        TransientFault: the child that collects the raw rows was killed or too slow.
        ToolFailed: raw rows of one kind contradict each other's types.
    """
    folder = report_folder(settings, release.run_id)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    summary = _collect(release, evidence, partial, settings, say)
    dossier = Dossier(
        release=release.model_copy(update={"report": folder / REPORT}),
        evidence=list(evidence),
        timings=list(timings),
        written_at=datetime.now(UTC),
        index=settings.foundry,
        frames=summary.rows,
        frames_missing=summary.missing,
        policy_digest=policy_digest,
    )
    write_text_atomically(partial / METRICS, metrics_json(dossier))
    write_text_atomically(partial / REPORT, render_report(dossier))
    _publish(partial, folder)
    return folder


def _collect(
    release: Release,
    evidence: Sequence[Evidence],
    target: Path,
    settings: Settings,
    say: Callable[[str], None],
) -> FramesSummary:
    request = FramesRequest(
        run_id=release.run_id,
        store=settings.store,
        sources=_sources(evidence),
        precisions={variant.digest: variant.precision for variant in release.variants},
        measurements=release.metrics,
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


def _publish(partial: Path, folder: Path) -> None:
    for file in partial.iterdir():
        sync_file(file)
    sync_folder(partial)
    replaced = folder.with_name(f"{folder.name}.replaced.partial")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)
