"""A run that Prefect starts a second time, under the same id, ends as one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry, Pending

from flows.parameters import ReleaseRequest
from flows.release import release
from tasks.core.settings import Settings
from tests.flow.test_release_flow import Workshop, workshop  # noqa: F401  (a fixture, by its name)

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server", "ingot_home")]


def test_second_attempt_of_one_run_continues_it_and_leaves_one_report(
    workshop: Workshop,  # noqa: F811
    demo_checkpoint: Path,
    demo_questions: Path,
) -> None:
    request = ReleaseRequest.model_validate(
        {"checkpoint": demo_checkpoint, "questions": demo_questions, "name": "demo"}
    )
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(release, parameters={"request": request}, state=Pending())

        def attempt() -> Any:
            current = client.read_flow_run(run.id)
            return run_flow(
                release, flow_run=current, parameters={"request": request}, return_type="state"
            )

        attempt()
        (first,) = Settings().runs.iterdir()
        (first / "left by the first attempt").touch()
        client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
        client.set_flow_run_state(run.id, Pending(), force=True)
        before = workshop.calls.copy()
        state = attempt()
    assert state.name == "Completed"
    again = workshop.calls - before
    assert list(again) == ["register champion"]
    (only,) = Settings().runs.iterdir()
    assert only == first
    assert (only / "report.html").is_file()
    assert not (only / "left by the first attempt").exists()
