"""The Prefect face of the report."""

from __future__ import annotations

from prefect import task

from tasks.core.progress import step
from tasks.core.records import Evidence, Release
from tasks.core.reservations import reserve_reading
from tasks.core.settings import Settings
from tasks.core.task import RETRYING, UNCACHED
from tasks.report.html.page_records import PAGE
from tasks.report.write import StepTiming, write_report


@task(name="write report", task_run_name="write report", **RETRYING, **UNCACHED)
def record_release(
    release: Release, evidence: list[Evidence], timings: list[StepTiming], policy_digest: str
) -> Release:
    """Write the run's folder; gives the release with the path of its report."""
    with step("write report") as say:
        with reserve_reading(step=f"report {release.run_id}", say=say):
            folder = write_report(
                release, evidence, settings=Settings(), timings=timings, policy_digest=policy_digest
            )
        say(str(folder))
    return release.model_copy(update={"report": folder / PAGE})
