"""Reading a run back: the numbers of metrics.json as records, the raw rows as pandas frames.

The one reader of what `write.py` publishes; it compares and judges nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tasks.core.errors import InputError
from tasks.core.records import Evidence, Measurement, Precision, Release
from tasks.report.frames import RENAMED
from tasks.report.metrics_json import METRICS_FILE, SCHEMA, ReleaseDocument, StepTiming, VariantGate

if TYPE_CHECKING:
    import pandas as pd

_FIRST = "ingot.release/1"


@dataclass(frozen=True)
class Run:
    """A run that was read back.

    Attributes:
        folder: where it was read from; frames are read from there too, each time they are asked
            for.
        document: everything that metrics.json says.
    """

    folder: Path
    document: ReleaseDocument

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self.document.run_id

    @property
    def release(self) -> Release:
        """The outcome."""
        return self.document.release

    @property
    def metrics(self) -> dict[str, dict[str, Measurement]]:
        """Measurements by variant digest, then by metric."""
        return self.document.release.metrics

    @property
    def precisions(self) -> dict[str, Precision]:
        """Precision of each variant, by digest."""
        return {variant.digest: variant.precision for variant in self.release.variants}

    @property
    def evidence(self) -> list[Evidence]:
        """What each examination noted and cost; metrics of variants are in `metrics`."""
        return self.document.evidence

    @property
    def gates(self) -> list[VariantGate]:
        """All gates of all variants."""
        return self.document.gates

    @property
    def timings(self) -> list[StepTiming]:
        """How long each step took."""
        return self.document.timings

    @property
    def policy_digest(self) -> str | None:
        """Of the gates that the run was judged by; None when it is not known."""
        return self.document.policy_digest

    @property
    def written_at(self) -> datetime:
        """When the run was written down."""
        return self.document.written_at

    @property
    def frames(self) -> list[str]:
        """Names of the frames that lie beside the document, sorted."""
        names = {RENAMED.get(file.stem, file.stem) for file in self.folder.glob("*.parquet")}
        return sorted(names)

    def frame(self, name: str) -> pd.DataFrame:
        """Read one frame: long format, columns run_id, variant_id and suite tell rows apart.

        Raises:
            InputError: the run has no such frame, or its file is damaged.
        """
        import pandas as pd

        older = [old for old, new in RENAMED.items() if new == name]
        files = [self.folder / f"{kind}.parquet" for kind in (name, *older)]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise InputError(
                f"run {self.run_id} has no frame {name!r}",
                expected=f"one of {', '.join(self.frames) or 'none: it has no frames at all'}",
            )
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError) as problem:
            raise InputError(
                f"{file} cannot be read: {problem}", next_step="run the release again"
            ) from problem


def load_run(folder: Path) -> Run:
    """Read a run's folder, of this schema version or the one before.

    Raises:
        InputError: there is no run there, it is damaged, or of a schema version that this Ingot
            does not know.
    """
    file = folder / METRICS_FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(
            f"{file} cannot be read: {problem}",
            expected="the folder of a run, as `ingot release` writes it",
        ) from problem
    document = _of_this_version(document, file)
    try:
        return Run(folder=folder, document=ReleaseDocument.model_validate(_bounds(document)))
    except ValidationError as problem:
        raise InputError(
            f"{file} is damaged: {_first_problem(problem)}", next_step="run the release again"
        ) from problem


def _of_this_version(document: Any, file: Path) -> dict[str, Any]:
    version = document.get("schema") if isinstance(document, dict) else None
    if version == SCHEMA:
        return dict(document)
    if version == _FIRST:
        return _from_the_first(document)
    raise InputError(
        f"{file} is of the schema {version!r}, which this Ingot does not know",
        expected=f"{SCHEMA} or {_FIRST}",
        next_step="read it with the version of Ingot that wrote it, or run the release again",
    )


def _from_the_first(document: dict[str, Any]) -> dict[str, Any]:
    """Version 1 named no Foundry folder, left metrics out of evidence, and said `answers`."""
    frames = document.get("frames", {})
    rows = {RENAMED.get(kind, kind): count for kind, count in frames.get("rows", {}).items()}
    return {
        "policy_digest": None,
        "index": None,
        **document,
        "schema": SCHEMA,
        "evidence": [{"metrics": {}, **part} for part in document.get("evidence", [])],
        "frames": {**frames, "rows": rows},
    }


def _bounds(node: Any) -> Any:
    """Read a bound that is null as what it stands for: no bound on that side."""
    if isinstance(node, list):
        return [_bounds(part) for part in node]
    if not isinstance(node, dict):
        return node
    found = {key: _bounds(value) for key, value in node.items()}
    if isinstance(found.get("ci95"), list) and len(found["ci95"]) == 2:
        low, high = found["ci95"]
        found["ci95"] = [-math.inf if low is None else low, math.inf if high is None else high]
    return found


def _first_problem(problem: ValidationError) -> str:
    error = problem.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
