"""What a release found out, as the record that is shown and the folder that keeps it.

Written before somebody is asked to decide and again at the end: the later state of one run is the
true one. Measures and decides nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from flows.examination import Examination, Subjects
from flows.fan_out import is_environments
from flows.preflight import Order
from flows.step_log import StepLog
from tasks.core.errors import IngotError
from tasks.core.records import Judgement, Release
from tasks.core.settings import Settings
from tasks.judge.policy import policy_digest
from tasks.report.html.page_records import PAGE
from tasks.report.task import record_release


@dataclass(frozen=True)
class Findings:
    """All that a run knows of its variants.

    Attributes:
        policy: the user's file, or None.
        failures: by subject; what fails later is added to it.
        began_s: of the run, on the monotonic clock.
    """

    run_id: str
    order: Order
    policy: Path | None
    subjects: Subjects
    examination: Examination
    judgement: Judgement
    failures: dict[str, IngotError]
    steps: StepLog
    began_s: float

    def release(self) -> Release:
        """Give the outcome as it stands before anything is registered."""
        checkpoint = self.subjects.checkpoint
        return self._up_to_date(
            Release(
                run_id=self.run_id,
                name=checkpoint.name,
                checkpoint=checkpoint,
                environment=self.subjects.environment,
                variants=self.subjects.variants,
                failures={},
                questions=self.order.questions,
                policy=self.policy,
                conditions=self.order.conditions,
                metrics=self.examination.metrics,
                judgement=self.judgement,
                registration=None,
                report=Settings().runs / self.run_id / PAGE,
                seconds=0.0,
                cached=[],
            )
        )

    def publish(self, release: Release) -> Release:
        """Write the run's folder anew, with what is known now."""
        return record_release(
            self._up_to_date(release),
            self.examination.all_evidence,
            self.steps.timings,
            policy_digest(self.order.policy),
        )

    def _up_to_date(self, release: Release) -> Release:
        failures = self.failures
        return release.model_copy(
            update={
                "failures": {subject: str(problem) for subject, problem in failures.items()},
                "environment_faults": sorted(k for k, v in failures.items() if is_environments(v)),
                "seconds": time.monotonic() - self.began_s,
                "cached": self.steps.cached,
            }
        )
