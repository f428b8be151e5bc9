"""The machine-readable half of a report: one JSON document a run, schema `ingot.release/2`.

Writes down what it is given; it judges nothing and leaves nothing out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from tasks.core.errors import ToolFailed
from tasks.core.records import (
    Digest,
    Evidence,
    GateResult,
    Measurement,
    Precision,
    Record,
    Release,
)

SCHEMA = "ingot.release/2"
METRICS_FILE = "metrics.json"


class StepTiming(Record):
    """How long one step took.

    Attributes:
        cached: its result was there already; `seconds` is then the time of the look-up.
        detail: what the step said last.
    """

    step: str
    seconds: float
    cached: bool = False
    detail: str = ""


class Dossier(Record):
    """All that a report is written from.

    Attributes:
        index: Foundry Local's production folder, which a user's application must name too.
        frames: rows by name of the parquet files beside the report.
        frames_missing: raw rows that should be there and are not, and why.
        policy_digest: of the gates that the verdict was reached by; empty when it is not known.
    """

    release: Release
    evidence: list[Evidence]
    timings: list[StepTiming]
    written_at: datetime
    index: Path | None
    frames: dict[str, int]
    frames_missing: list[str]
    policy_digest: str = ""


class VariantGate(GateResult):
    """A judged gate with the variant it is about: the gates of all variants make one flat list."""

    variant: Digest
    precision: Precision


class Frames(Record):
    """The raw rows beside the document.

    Attributes:
        rows: by name of the parquet file, without its ending.
        missing: what should be there and is not.
    """

    rows: dict[str, int]
    missing: list[str]


class ReleaseDocument(Record):
    """One run, as metrics.json holds it; `metrics.schema.json` is made from this class.

    Attributes:
        champion, reason: of the judgement, again at the top for those who want no more.
        index: Foundry Local's production folder.
        evidence: its metrics are empty for the variants of the release, whose metrics are under
            `release.metrics`.
    """

    model_config = ConfigDict(title="ingot release", serialize_by_alias=True)

    schema_: Literal["ingot.release/2"] = Field(default="ingot.release/2", alias="schema")
    run_id: str
    name: str
    written_at: datetime
    champion: Digest | None
    reason: str
    policy_digest: Digest | None
    index: Path | None
    gates: list[VariantGate]
    timings: list[StepTiming]
    evidence: list[Evidence]
    frames: Frames
    release: Release


def metrics_json(dossier: Dossier) -> str:
    """Give the document as text; what is not a number becomes null, and keys keep their order.

    Raises:
        ToolFailed: the document does not meet its published schema.
    """
    from tasks.report.schema import problems_of

    document = json.loads(_document(dossier).model_dump_json())
    if problems := problems_of(document):
        raise ToolFailed(
            f"the run's {METRICS_FILE} does not meet the schema {SCHEMA}: {'; '.join(problems)}",
            next_step="this is a defect of Ingot, or a figure that is no number: report it",
        )
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _document(dossier: Dossier) -> ReleaseDocument:
    release = dossier.release
    return ReleaseDocument(
        run_id=release.run_id,
        name=release.name,
        written_at=dossier.written_at,
        champion=release.judgement.champion,
        reason=release.judgement.reason,
        policy_digest=dossier.policy_digest or None,
        index=dossier.index,
        gates=[
            VariantGate(variant=verdict.variant, precision=verdict.precision, **_fields(gate))
            for verdict in release.judgement.verdicts
            for gate in verdict.gates
        ],
        timings=dossier.timings,
        evidence=[_without_repetition(part, release) for part in dossier.evidence],
        frames=Frames(rows=_sorted(dossier.frames), missing=dossier.frames_missing),
        release=release.model_copy(
            update={
                "metrics": _sorted({d: _sorted(found) for d, found in release.metrics.items()}),
                "failures": _sorted(release.failures),
            }
        ),
    )


def _fields(gate: GateResult) -> dict[str, Any]:
    return {name: getattr(gate, name) for name in GateResult.model_fields}


def _without_repetition(part: Evidence, release: Release) -> Evidence:
    known: Mapping[str, Measurement] = {} if part.subject in release.metrics else part.metrics
    return part.model_copy(update={"metrics": _sorted(known)})


def _sorted(table: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(table.items()))
