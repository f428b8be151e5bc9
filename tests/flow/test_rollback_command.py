"""`ingot rollback` tells a server what the flow would, and needs none.

The child that talks with Foundry Local is a hand-written fake; the real one is held in tests/real.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import Result
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from deployments.stack.processes import TOKEN
from flows.command import app
from flows.rollback_event import EVENT
from tasks.core.settings import Settings
from tasks.foundry import roll_back as rolling
from tasks.foundry.ledger import append_champion, champion_of
from tasks.foundry.roll_back import RolledBack
from tests.flow.test_deployed import until
from tests.flow.test_rollback_flow import champion

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ingot_home")]
NOBODY = "http://127.0.0.1:9/api"


@pytest.fixture
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Register two champions under a name of this test's own."""

    def child(_: str, request: Any, *__: Any, **___: Any) -> tuple[RolledBack, None]:
        return RolledBack(unregistered=[request.present]), None

    monkeypatch.setattr(rolling, "run_child", child)
    name = f"of-{os.getpid()}-{abs(hash(request.node.name))}"
    for version in (1, 2):
        append_champion(Settings(), name, champion(version))
    return name


def roll_back(name: str, api: str | None) -> Result:
    with temporary_settings({PREFECT_API_URL: api}):
        answer = CliRunner().invoke(app, ["rollback", name])
    present = champion_of(Settings(), name)
    assert present is not None
    assert (answer.exit_code, present.model_id) == (0, "demo-int4-cpu:1"), answer.output
    assert "is champion of" in answer.stdout
    return answer


def told_of(name: str, api: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    occurred = {"since": now - timedelta(hours=1), "until": now + timedelta(hours=1)}
    wanted = EventFilter(event=EventNameFilter(name=[EVENT]), occurred=occurred)

    def stored() -> Any:
        with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
            events = client.read_events(wanted, limit=50).events
        return [one for one in events if one.payload["name"] == name]

    (event,) = until(stored, f"the event of {name}")
    assert event.resource.id == f"champion.{name}"
    payload: dict[str, Any] = event.payload
    return payload


def test_configured_server_is_told_what_the_flow_would_tell(name: str, real_server: str) -> None:
    assert roll_back(name, real_server).stderr == ""
    assert told_of(name, real_server) == {
        "name": name,
        "champion": "demo-int4-cpu:1",
        "variant": "1" * 64,
        "instead_of": "demo-int4-cpu:2",
    }


def test_server_of_ingot_up_is_told(
    name: str, real_server: str, ingot_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psutil.Popen(["sleep", "600"], env={**os.environ, TOKEN: "t"}) as server:
        try:
            (ingot_home / "stack").mkdir()
            member = {"pid": server.pid, "token": "t", "api": real_server}
            (ingot_home / "stack" / "server.json").write_text(json.dumps(member))
            assert roll_back(name, None).stderr == ""
        finally:
            server.kill()
    assert told_of(name, real_server)["champion"] == "demo-int4-cpu:1"


def test_server_that_is_away_fails_nothing_and_is_named(name: str) -> None:
    assert f"{NOBODY} may not know" in roll_back(name, NOBODY).stderr


def test_without_a_server_nobody_is_told(name: str) -> None:
    assert roll_back(name, None).stderr == ""
