"""Publishing the soak of a champion as one folder: soak.json, and the raw rows as parquet.

Built aside and renamed last, as reports are. What was measured and judged comes from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks.core.child import run_child
from tasks.core.files import write_text_atomically
from tasks.core.records import (
    Checkpoint,
    Digest,
    Environment,
    Evidence,
    ExaminationProfile,
    GateResult,
    GateVerdict,
    Precision,
    Record,
    Severity,
    VariantVerdict,
)
from tasks.core.settings import Settings
from tasks.core.staging import Staging
from tasks.report.frames import FrameSource, FramesRequest, FramesSummary, measurement_rows
from tasks.report.markdown import gate_rows
from tasks.report.markup import bullets, escaped, section, table
from tasks.report.write import report_folder

SCHEMA = "ingot.soak/1"
FILE = "soak.json"
DEADLINE_S = 600.0


class SoakRun(Record):
    """The outcome of one soak of a champion.

    Attributes:
        name: under which the champion is registered.
        model_id: of the champion in Foundry Local.
        released_by: the run that examined and registered it.
        verdict: the gates on what a soak measures.
        failures: examination to the reason why it could not be made.
        folder: the evidence of this soak.
    """

    run_id: str
    name: str
    model_id: str
    released_by: str
    variant: Digest
    precision: Precision
    checkpoint: Checkpoint
    examination: ExaminationProfile
    environment: Environment
    evidence: list[Evidence]
    verdict: VariantVerdict
    failures: dict[str, str]
    policy_digest: str
    folder: Path
    seconds: float

    @property
    def culprits(self) -> list[GateResult]:
        """Blocking gates that did not pass, those that FAIL first."""
        blocking = [gate for gate in self.verdict.gates if gate.severity is Severity.BLOCK]
        order = (GateVerdict.FAIL, GateVerdict.INCONCLUSIVE)
        return [gate for worst in order for gate in blocking if gate.verdict is worst]

    @property
    def leaks(self) -> bool:
        """Whether a blocking gate failed on something that was measured."""
        return any(
            gate.verdict is GateVerdict.FAIL and gate.measurement and gate.measurement.n
            and gate.measurement.value is not None
            for gate in self.culprits
        )  # fmt: skip

    @property
    def reason(self) -> str:
        """Say in one sentence what came of it."""
        if self.failures:
            return f"{self.model_id}: {', '.join(sorted(self.failures))} could not be finished."
        named = ", ".join(gate.gate for gate in self.culprits)
        if self.leaks:
            return f"{self.model_id} does not last: {named}."
        if self.verdict.verdict is GateVerdict.PASS:
            return f"{self.model_id} lasts: every blocking gate passes."
        return f"Whether {self.model_id} lasts is open: {named}."


def write_soak_run(run: SoakRun, settings: Settings) -> Path:
    """Write the run's folder and give it; a run that is written again replaces its folder.

    Raises:
        InputError: the run's name is not a plain folder name.
        TransientFault: the child that collects the raw rows was killed or too slow.
    """
    folder = report_folder(settings, run.run_id)
    staging = Staging(settings.runs, settings.locks)
    with staging.folder() as scratch:
        partial = scratch / folder.name
        partial.mkdir()
        _collect_rows(run, partial, settings)
        document = {"schema": SCHEMA, **run.model_dump(mode="json"), "folder": str(folder)}
        write_text_atomically(partial / FILE, json.dumps(document, indent=1) + "\n")
        staging.publish(partial, folder)
    return folder


def soak_markdown(run: SoakRun) -> str:
    """Write the outcome for the Prefect UI: verdict, gates, what was not asked, notes."""
    sections = [
        f"**{escaped(run.reason)}**",
        f"Examination {run.examination.value}, {run.seconds:,.0f} s; evidence in `{run.folder}`.",
        table(gate_rows(run.verdict.gates)),
        section("Failures", bullets(f"{k}: {why}" for k, why in sorted(run.failures.items()))),
        section("Not asked", bullets(_not_asked(run.verdict))),
        section("Notes", bullets(note for part in run.evidence for note in part.notes)),
    ]
    return "\n\n".join(part for part in sections if part)


def _not_asked(verdict: VariantVerdict) -> Iterable[str]:
    return (f"{gate}: {why}" for gate, why in sorted(verdict.not_asked.items()))


def _collect_rows(run: SoakRun, target: Path, settings: Settings) -> None:
    metrics = {name: found for part in run.evidence for name, found in part.metrics.items()}
    request = FramesRequest(
        run_id=run.run_id,
        store=settings.store,
        sources=_sources(run.evidence),
        measurements=measurement_rows({run.variant: metrics}, {run.variant: run.precision}),
        target=target,
    )
    run_child(
        "tasks.report.frames:collect_frames",
        request,
        FramesSummary,
        log=settings.logs / f"report-{run.run_id}.log",
        deadline_s=DEADLINE_S,
    )


def _sources(evidence: Sequence[Evidence]) -> list[FrameSource]:
    return [
        FrameSource(suite=part.suite, subjects=[part.subject], frames=part.frames)
        for part in evidence
        if part.frames is not None
    ]
