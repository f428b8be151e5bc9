"""Going back from the UI: what is refused, what is told, and that it never goes back twice.

The child that talks with Foundry Local is a hand-written fake; the real one is held in tests/real.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.artifacts import Artifact

from flows import attempts, rollback
from flows.release import release
from flows.rollback import RollbackRequest
from flows.rollback_event import EVENT
from flows.soak import soak
from tasks.core.errors import InputError, ToolFailed
from tasks.core.records import Precision
from tasks.core.settings import Settings
from tasks.foundry import roll_back as rolling
from tasks.foundry.ledger import Champion, append_champion, champion_of
from tasks.foundry.roll_back import RolledBack

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server", "ingot_home")]


def champion(version: int) -> Champion:
    return Champion(
        model_id=f"demo-int4-cpu:{version}",
        variant=f"{version}" * 64,
        checkpoint="c" * 64,
        precision=Precision.INT4,
        run_id=f"run-{version}",
        since=datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=version),
        size_bytes=1_500_000,
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Register two champions; give what the child is asked for, and the events."""
    seen: list[Any] = []
    for version in (1, 2):
        append_champion(Settings(), "demo", champion(version))

    def child(_: str, request: Any, *__: Any, **___: Any) -> tuple[RolledBack, None]:
        seen.append(request)
        return RolledBack(unregistered=[request.present]), None

    monkeypatch.setattr(rolling, "run_child", child)
    monkeypatch.setattr(rollback, "emit_event", lambda event, **what: seen.append((event, what)))
    return seen


def go(**fields: Any) -> Any:
    return rollback.rollback(RollbackRequest.model_validate(fields), return_state=True)


def test_champion_before_comes_back_and_everybody_is_told(asked: list[Any]) -> None:
    state = go(name="demo")
    assert state.name == "RolledBack"
    assert state.is_completed()
    assert "demo-int4-cpu:1 is champion of demo again, instead of demo-int4-cpu:2" in state.message
    assert state.result().model_id == "demo-int4-cpu:1"
    present = champion_of(Settings(), "demo")
    assert present is not None
    assert present.model_id == "demo-int4-cpu:1"
    assert (asked[0].present, asked[0].target) == ("demo-int4-cpu:2", "demo-int4-cpu:1")
    event, what = asked[1]
    assert event == EVENT == "champion.rolled_back"
    assert what["resource"]["prefect.resource.id"] == "champion.demo"
    assert what["payload"]["champion"] == "demo-int4-cpu:1"
    assert what["payload"]["instead_of"] == "demo-int4-cpu:2"


def test_run_shows_who_is_champion_now(asked: list[Any]) -> None:
    state = go(name="demo")
    shown: Any = Artifact.get("ingot-rollback")
    assert shown.flow_run_id == state.state_details.flow_run_id
    rows = [line for line in shown.data.splitlines() if "demo-int4-cpu" in line]
    assert "demo-int4-cpu:1" in rows[0]


def test_model_that_must_come_back_is_held(asked: list[Any]) -> None:
    assert go(name="demo", to="demo-int4-cpu:1").name == "RolledBack"
    asked.clear()
    state = go(name="demo", to="demo-int4-cpu:1")  # the button, pressed again
    assert state.is_failed()
    assert asked == []


def test_wrong_model_is_refused_with_the_right_one(asked: list[Any]) -> None:
    problem = go(name="demo", to="demo-int8-cpu:7").result(raise_on_failure=False)
    assert isinstance(problem, InputError)
    assert "demo-int4-cpu:1" in problem.expected
    assert asked == []


def test_name_without_a_champion_is_refused_with_the_names_there_are(asked: list[Any]) -> None:
    problem = go(name="dmeo").result(raise_on_failure=False)
    assert isinstance(problem, InputError)
    assert "demo" in problem.expected
    assert asked == []


def test_first_champion_has_nothing_to_go_back_to(asked: list[Any]) -> None:
    append_champion(Settings(), "other", champion(3))
    problem = go(name="other").result(raise_on_failure=False)
    assert isinstance(problem, InputError)
    assert "only demo-int4-cpu:3" in problem.got


def test_champion_that_does_not_answer_changes_nothing(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(*_: Any, **__: Any) -> Any:
        raise ToolFailed("it does not answer")

    monkeypatch.setattr(rolling, "run_child", child)
    assert go(name="demo").is_failed()
    present = champion_of(Settings(), "demo")
    assert present is not None
    assert present.model_id == "demo-int4-cpu:2"
    assert asked == []


@pytest.mark.parametrize(
    ("flow", "request_fields", "starts", "gives_up"),
    [
        (release, {"checkpoint": "/nowhere"}, 3, False),
        (release, {"checkpoint": "/nowhere"}, 4, True),
        (soak, {"name": "demo"}, 4, True),
        (rollback.rollback, {"name": "demo"}, 1, False),
        (rollback.rollback, {"name": "demo"}, 2, True),
    ],
    ids=["release 3", "release 4", "soak 4", "rollback 1", "rollback 2"],
)
def test_run_that_was_started_too_often_spends_nothing(
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    flow: Any,
    request_fields: dict[str, str],
    starts: int,
    gives_up: bool,
) -> None:
    monkeypatch.setattr(attempts.flow_run, "get_run_count", lambda: starts)
    state = flow(request_fields, return_state=True)
    assert (state.name == "GaveUp") is gives_up
    if gives_up:
        assert state.is_failed()
        assert f"started {starts} times" in state.message
        assert asked == []
        assert not Settings().runs.exists()
