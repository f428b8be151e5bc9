"""The machine-readable half of a report: one JSON document a run, schema `ingot.release/1`.

Writes down what it is given; it judges nothing and leaves nothing out.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.core.records import Evidence, Record, Release

SCHEMA = "ingot.release/1"


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
    index: Path
    frames: dict[str, int]
    frames_missing: list[str]
    policy_digest: str = ""


def metrics_json(dossier: Dossier) -> str:
    """Give the document as text; what is not a number becomes null, and keys keep their order."""
    return json.dumps(_document(dossier), indent=1, allow_nan=False) + "\n"


def _document(dossier: Dossier) -> dict[str, Any]:
    release: dict[str, Any] = json.loads(dossier.release.model_dump_json())
    release["metrics"] = {
        digest: dict(sorted(metrics.items()))
        for digest, metrics in sorted(release["metrics"].items())
    }
    release["failures"] = dict(sorted(release["failures"].items()))
    return {
        "schema": SCHEMA,
        "run_id": dossier.release.run_id,
        "name": dossier.release.name,
        "written_at": dossier.written_at.isoformat(),
        "champion": release["judgement"]["champion"],
        "reason": release["judgement"]["reason"],
        "policy_digest": dossier.policy_digest or None,
        "gates": [
            {"variant": verdict["variant"], "precision": verdict["precision"], **gate}
            for verdict in release["judgement"]["verdicts"]
            for gate in verdict["gates"]
        ],
        "timings": [timing.model_dump(mode="json") for timing in dossier.timings],
        "evidence": [
            part.model_dump(mode="json", exclude={"metrics"}) for part in dossier.evidence
        ],
        "frames": {
            "rows": dict(sorted(dossier.frames.items())),
            "missing": dossier.frames_missing,
        },
        "release": release,
    }
