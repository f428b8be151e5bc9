"""Runs of one variant with given measurements, in memory or as a folder of a home."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tasks.core.files import write_text_atomically
from tasks.core.records import Evidence, Judgement, Measurement, Precision, Release
from tasks.core.settings import Settings
from tasks.report.load import Run
from tasks.report.metrics_json import Frames, ReleaseDocument
from tests.golden.sample_release import INT4, sample_release, variant

Table = dict[str, Measurement]


def run_of(
    folder: Path,
    table: Table,
    *,
    digest: str = INT4,
    notes: list[str] | None = None,
    **changes: object,
) -> Run:
    """Give a run of one INT4 variant that was measured so."""
    release = sample_release().model_copy(
        update={
            "variants": [variant(digest, Precision.INT4, 1_500_000)],
            "metrics": {digest: table},
            "judgement": Judgement(champion=None, verdicts=[], reason="", advice=[]),
            "registration": None,
            **changes,
        }
    )
    return Run(folder=folder, document=document_of(release, notes or []))


def document_of(release: Release, notes: list[str]) -> ReleaseDocument:
    return ReleaseDocument(
        run_id=release.run_id,
        name=release.name,
        written_at=datetime(2026, 11, 22, tzinfo=UTC),
        champion=None,
        reason="",
        policy_digest=None,
        index=None,
        gates=[],
        timings=[],
        evidence=[Evidence(suite="speed", subject=INT4, metrics={}, notes=notes)],
        frames=Frames(rows={}, missing=[]),
        release=release,
    )


def write_run(
    settings: Settings, run_id: str, table: Table, digest: str = INT4, **changes: object
) -> Path:
    """Write the run into the home of the settings, and give its folder."""
    folder = settings.runs / run_id
    folder.mkdir(parents=True)
    run = run_of(folder, table, digest=digest, run_id=run_id, **changes)
    write_text_atomically(folder / "metrics.json", run.document.model_dump_json(by_alias=True))
    return folder
