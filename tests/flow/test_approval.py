"""Somebody is asked before the champion changes: what they say holds, and nothing else ships."""

from __future__ import annotations

import contextvars
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import AwaitingRetry, Cancelled, Crashed, Failed
from typer.testing import CliRunner

from flows import approval_run
from flows.approval import asking
from flows.approval_prompt import terminal_asker
from flows.display import StepDisplay, console_for
from flows.parameters import ReleaseRequest
from flows.release import release
from tasks.core.records import Approval, ApprovalState, Precision, Release
from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion, append_champion, champion_of
from tasks.report import write
from tasks.report.frames import FramesSummary
from tests.release_workshop import Workshop, opened_workshop

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server", "ingot_home")]

LONG_S = 240.0
PROMOTE = {"decision": "promote", "comment": "good enough", "by": "Ada"}


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setattr(approval_run, "POLL_S", 0.2)
    # Collecting raw rows takes a child process with pandas, twice a test; there are none here.
    monkeypatch.setattr(write, "_collect", lambda *_: FramesSummary(rows={}, missing=[]))
    return opened_workshop(monkeypatch)


@pytest.fixture
def request_with_approval(demo_checkpoint: Path, demo_questions: Path) -> Callable[..., Any]:
    def make(**changes: Any) -> ReleaseRequest:
        fields = {"checkpoint": demo_checkpoint, "questions": demo_questions, "name": "demo"}
        asks = {"approval": True, "precisions": ["int4"]}
        return ReleaseRequest.model_validate({**fields, **asks, **changes})

    return make


@pytest.fixture
def run(request_with_approval: Callable[..., ReleaseRequest]) -> Callable[..., tuple[str, Any]]:
    """Run the flow with approval; gives the state's name and its result or error."""

    def go(**changes: Any) -> tuple[str, Any]:
        state = release(request_with_approval(**changes), return_state=True)
        return state.name, state.result(raise_on_failure=False)

    return go


def questions(*, paused: bool = False) -> list[FlowRun]:
    """Give the runs that asked somebody, oldest first."""
    with get_client(sync_client=True) as client:
        return _questions(client, paused=paused)


def _questions(client: SyncPrefectClient, *, paused: bool) -> list[FlowRun]:
    state = {"state": {"type": {"any_": ["PAUSED"]}}} if paused else {}
    found = client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": ["approval"]}}),
        flow_run_filter=FlowRunFilter.model_validate(state),
    )
    return sorted(found, key=lambda one: one.created or datetime.min.replace(tzinfo=UTC))


def asked(after: FlowRun | None = None) -> FlowRun:
    """Wait for the question that stands now; for another one than `after`."""
    old = after.state.id if after and after.state else None
    ends = time.monotonic() + LONG_S
    with get_client(sync_client=True) as client:
        while time.monotonic() < ends:
            found = _questions(client, paused=True)
            if new := [one for one in found if one.state and one.state.id != old]:
                return new[-1]
            time.sleep(0.2)
    raise TimeoutError("nobody was asked")


def answered(question: FlowRun) -> None:
    """Wait until a question does not stand any more."""
    with get_client(sync_client=True) as client:
        while any(other.id == question.id for other in _questions(client, paused=True)):
            time.sleep(0.1)


@contextmanager
def person(*acts: Callable[[FlowRun], None], after: FlowRun | None = None) -> Iterator[None]:
    """Have somebody wait for each question and act on it, while the block runs."""
    problems: list[BaseException] = []

    def live() -> None:
        for act in acts:
            try:
                question = asked(after)
                act(question)
                answered(question)
            except BaseException as problem:  # shown by the test below
                problems.append(problem)
                raise

    thread = threading.Thread(target=contextvars.copy_context().run, args=(live,), daemon=True)
    thread.start()
    yield
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert not problems, problems


def says(**fields: str) -> Callable[[FlowRun], None]:
    """Answer through the API, as the UI does."""
    return lambda question: resume_flow_run(question.id, run_input=dict(fields))


def evidence() -> dict[str, Any]:
    """Read the only run's metrics.json."""
    (folder,) = [f for f in Settings().runs.iterdir() if f.suffix != ".partial"]
    return dict(json.loads((folder / "metrics.json").read_text())["release"])


def test_promoted_champion_ships_and_the_evidence_says_who_and_why(
    workshop: Workshop, run: Any
) -> None:
    seen: dict[str, Any] = {}

    def look_and_promote(question: FlowRun) -> None:
        seen.update(evidence(), registered=workshop.calls["register champion"])
        says(**PROMOTE)(question)

    with person(look_and_promote):
        name, outcome = run()
    # what could be read while it waited
    assert seen["approval"]["state"] == "waiting"
    assert (seen["registration"], seen["registered"]) == (None, 0)
    assert name == "Completed"
    assert outcome.registration.model_id == "demo-int4-cpu:1"
    decided = evidence()["approval"]
    assert (decided["state"], decided["comment"], decided["by"]) == (
        "promoted",
        "good enough",
        "Ada",
    )
    assert questions()[-1].state_name == "Promoted"


def test_rejected_champion_is_not_registered_and_the_one_before_stays(
    workshop: Workshop, run: Any
) -> None:
    before = some_champion("a" * 64, "demo-fp16-cpu:7")
    with person(says(decision="reject", comment="too terse")):
        name, outcome = run()
    assert name == "Rejected"
    assert outcome.registration is None
    assert workshop.calls["register champion"] == 0
    assert champion_of(Settings(), "demo") == before
    assert evidence()["approval"]["comment"] == "too terse"
    report = (outcome.report.parent / "report.md").read_text()
    assert "# demo: INT4 passes, and was rejected" in report
    assert "Rejected: too terse. Nothing was registered; demo-fp16-cpu:7 stays champion." in report


def test_question_shows_the_verdict_and_what_is_replaced(workshop: Workshop, run: Any) -> None:
    some_champion("a" * 64, "demo-fp16-cpu:7")
    seen: list[str] = []

    def read(question: FlowRun) -> None:
        seen.append(question.parameters["proposal"])
        says(decision="reject")(question)

    with person(read):
        _, outcome = run()
    for part in ("demo-fp16-cpu:7", "INT4 of demo", "KL divergence", "flips", "PASS"):
        assert part in seen[0]
    assert str(outcome.report) in seen[0]


def test_nobody_answers_in_time_and_nothing_is_registered(workshop: Workshop, run: Any) -> None:
    name, outcome = run(approval_hours=0.0005)
    assert name == "Unanswered"
    assert outcome.approval.state is ApprovalState.UNANSWERED
    assert workshop.calls["register champion"] == 0
    assert evidence()["approval"]["state"] == "unanswered"
    assert outcome.report.is_file()
    question = questions()[-1]
    assert (question.state_name, question.state_type.value) == ("Unanswered", "COMPLETED")


def test_nobody_is_asked_unless_the_request_says_so(workshop: Workshop, run: Any) -> None:
    before = len(questions())
    name, outcome = run(approval=False)
    assert name == "Completed"
    assert outcome.approval is None
    assert len(questions()) == before


def test_nobody_is_asked_where_nothing_passes(workshop: Workshop, run: Any) -> None:
    workshop.bad = dict.fromkeys(Precision, "answers.flip_rate")
    before = len(questions())
    name, outcome = run()
    assert (name, outcome.approval, len(questions())) == ("Refused", None, before)


def test_nobody_is_asked_where_the_champion_stays_the_same(workshop: Workshop, run: Any) -> None:
    run(approval=False)
    before = len(questions())
    name, outcome = run()
    assert (name, outcome.approval, len(questions())) == ("Completed", None, before)
    assert outcome.registration.model_id == "demo-int4-cpu:1"


@pytest.mark.parametrize(
    "wrong",
    [{"decision": "maybe"}, {"decision": "promote", "comment": "x" * 1001}, {"verdict": "promote"}],
)
def test_wrong_answer_is_refused_and_the_question_stands(
    workshop: Workshop, run: Any, wrong: dict[str, str]
) -> None:
    def try_it(question: FlowRun) -> None:
        with pytest.raises(RuntimeError, match="Cannot resume"):
            says(**wrong)(question)
        assert asked().id == question.id
        says(decision="reject", comment="said properly")(question)

    with person(try_it):
        name, outcome = run()
    assert (name, outcome.approval.comment) == ("Rejected", "said properly")


def test_who_resumes_without_an_answer_has_rejected(workshop: Workshop, run: Any) -> None:
    with person(lambda question: resume_flow_run(question.id)):
        name, _ = run()
    assert name == "Rejected"
    assert workshop.calls["register champion"] == 0


def test_cancelled_question_is_a_rejection(workshop: Workshop, run: Any) -> None:
    def cancel(question: FlowRun) -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(question.id, Cancelled(), force=True)

    with person(cancel):
        name, outcome = run()
    assert name == "Rejected"
    assert "cancelled" in outcome.approval.comment
    assert workshop.calls["register champion"] == 0


def test_question_that_the_server_closed_counts_as_unanswered(workshop: Workshop, run: Any) -> None:
    def expire(question: FlowRun) -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(question.id, Failed(message="never resumed"), force=True)

    with person(expire):
        name, _ = run()
    assert name == "Unanswered"
    assert workshop.calls["register champion"] == 0


def test_question_that_cannot_be_put_fails_the_run_and_keeps_the_evidence(
    workshop: Workshop, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("Prefect refused the state Paused")

    monkeypatch.setattr(approval_run, "_set", refuse)
    name, problem = run()
    assert name == "Failed"
    assert "refused the state" in str(problem)
    assert evidence()["approval"]["state"] == "waiting"
    assert workshop.calls["register champion"] == 0


def test_server_that_does_not_answer_is_waited_for(
    workshop: Workshop, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = SyncPrefectClient.read_flow_run, [httpx.ConnectError("gone")] * 3

    def flaky(client: SyncPrefectClient, run_id: Any) -> FlowRun:
        if failures and sys._getframe(1).f_code.co_name == "_state":
            raise failures.pop()
        return read(client, run_id)

    monkeypatch.setattr(SyncPrefectClient, "read_flow_run", flaky)
    with person(says(decision="reject", comment="still here")):
        name, outcome = run()
    assert (name, outcome.approval.comment, failures) == ("Rejected", "still here", [])


def test_promotion_over_another_champion_than_was_shown_is_asked_again(
    workshop: Workshop, run: Any
) -> None:
    def promote_too_late(question: FlowRun) -> None:
        some_champion("b" * 64, "demo-int8-cpu:9")
        says(decision="promote")(question)

    with person(promote_too_late, says(decision="reject", comment="the new one is fine")):
        name, outcome = run()
    assert (name, outcome.approval.instead_of) == ("Rejected", "demo-int8-cpu:9")
    assert workshop.calls["register champion"] == 0


@pytest.mark.parametrize("answered_while_dead", [False, True])
def test_run_killed_while_it_waits_asks_again_and_builds_nothing(
    workshop: Workshop,
    request_with_approval: Callable[..., ReleaseRequest],
    answered_while_dead: bool,
) -> None:
    with get_client(sync_client=True) as client:
        parameters = {"request": request_with_approval().model_dump(mode="json")}
        again = client.create_flow_run(release, parameters=parameters)
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.flow.released_by_a_process", str(again.id)],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
        )
        question = asked()
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert evidence()["approval"]["state"] == "waiting"
        if answered_while_dead:
            says(decision="promote", comment="to nobody")(question)
        # What the worker, or the automation on lost heartbeats, and then the one on crashes do.
        client.set_flow_run_state(again.id, Crashed(), force=True)
        client.set_flow_run_state(again.id, AwaitingRetry(), force=True)
        again = client.read_flow_run(again.id)
    with person(says(**PROMOTE), after=question):
        state = run_flow(release, flow_run=again, return_type="state")
    outcome: Any = state.result(raise_on_failure=False)
    assert isinstance(outcome, Release), outcome
    assert outcome.registration is not None
    assert outcome.approval is not None
    assert outcome.approval.comment == "good enough"
    assert workshop.calls == Counter({"register champion": 1})
    assert not questions(paused=True)


def test_command_asks_at_its_terminal(workshop: Workshop, run: Any) -> None:
    console = console_for(json=False)
    with CliRunner().isolation(input="y\nlooks right\n") as (output, *_):
        with StepDisplay(console) as display, asking(terminal_asker(console, display)):
            _, outcome = run()
        shown = output.getvalue().decode()
    assert outcome.registration.model_id == "demo-int4-cpu:1"
    assert (outcome.approval.state, outcome.approval.comment) == ("promoted", "looks right")
    assert "Promote it?" in shown


def some_champion(digest: str, model_id: str) -> Champion:
    """Enter another champion of the name, as another release or a rollback does."""
    return append_champion(
        Settings(),
        "demo",
        Champion(
            model_id=model_id,
            variant=digest,
            checkpoint="c" * 64,
            precision=Precision.FP16,
            run_id="another",
            since=datetime.now(UTC),
            size_bytes=1,
        ),
    )


def test_approval_is_granted_by_promotion_alone() -> None:
    granted = {
        state
        for state in ApprovalState
        if Approval(state=state, instead_of=None, asked_at=datetime.now(UTC)).is_granted
    }
    assert granted == {ApprovalState.PROMOTED}
