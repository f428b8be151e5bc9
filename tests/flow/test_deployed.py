"""What a real server, its services and a real worker make of prefect.yaml and the automations.

Started together, because each waits for the clock: the cron deployment, a crash loop and two
events run while the deployments are read back.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial, partialmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import DoNothing
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Completed, Crashed, Pending, Running
from prefect.workers.process import ProcessWorker

from deployments.automations import (
    AUTOMATIONS,
    apply_automations,
    notify_through,
    read_automations,
    remove_automations,
)
from deployments.check import PREFECT_YAML, check_deployments
from deployments.trigger import SAMPLES
from flows.attempts import MOST
from flows.parameters import ReleaseRequest
from flows.rollback_event import EVENT, resource_of
from tasks.core.errors import InputError
from tests.flow.conftest import plain_environment
from tests.flow.crashing_flow import crash

pytestmark = pytest.mark.flow

REPOSITORY = PREFECT_YAML.parent
PATIENCE_S = 420.0
AGAIN_S = 60.0
ENTRIES = yaml.safe_load(PREFECT_YAML.read_text())["deployments"]
RESOURCE, PAYLOAD = SAMPLES["checkpoint.landed"]


@dataclass
class Stage:
    """A server with everything deployed, and a worker.

    Attributes:
        applied: what each of three runs of `apply_automations` did.
        ids: of the automations after each of them.
        starts: a line for each start of the flow that is always killed.
        crashing: the run of that flow.
    """

    client: SyncPrefectClient
    landing: Path
    starts: Path
    worker: subprocess.Popen[bytes] | None = None
    applied: list[list[str]] = field(default_factory=list)
    ids: list[dict[str, UUID]] = field(default_factory=list)
    crashing: UUID | None = None

    def runs_of(self, deployment: str) -> list[FlowRun]:
        found = self.client.read_deployment_by_name(deployment)
        return [run for run in self.client.read_flow_runs() if run.deployment_id == found.id]

    def states(self, run: UUID) -> list[State[Any]]:
        return self.client.read_flow_run_states(run)

    def emit(self, event: str, resource: dict[str, str], **fields: Any) -> None:
        """Post an event as anything without Prefect would."""
        stamp = {"occurred": datetime.now(UTC).isoformat(), "id": str(uuid4())}
        body = [{"event": event, "resource": resource, **stamp, **fields}]
        self.client.request("POST", "/events", json=body).raise_for_status()


def until(met: Callable[[], Any], what: str, again: Callable[[], Any] | None = None) -> Any:
    """Wait until something is there, and give it.

    Args:
        met: gives it, or nothing.
        what: is waited for.
        again: sends the event once more, each minute: on a busy machine the server's SQLite is
            locked so long that it drops messages (measured, 3.8.8).
    """
    began = time.monotonic()
    sent = 1
    while time.monotonic() - began < PATIENCE_S:
        if found := met():
            return found
        if again is not None and time.monotonic() - began > sent * AGAIN_S:
            again()
            sent += 1
        time.sleep(0.5)
    return pytest.fail(f"not within {PATIENCE_S:.0f} s: {what}")


def with_silence_of(tmp_path: Path, seconds: int, *names: str) -> Path:
    """Copy the automations with less patience in some; the file's name is what makes them ours."""
    entries = yaml.safe_load(AUTOMATIONS.read_text())
    for entry in entries:
        if entry["name"] in names:
            entry["trigger"]["within"] = seconds
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / AUTOMATIONS.name
    path.write_text(yaml.safe_dump(entries))
    return path


@pytest.fixture(scope="module")
def stage(real_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("deployed")
    home = folder / "ingot"
    (home / "landing" / "demo" / "step-1").mkdir(parents=True)
    (home / "landing" / "demo" / "step-1" / "config.json").write_text("{}")  # half a copy
    environment = {
        **plain_environment(folder / "prefect"),
        "PREFECT_API_URL": real_server,
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONPATH": str(REPOSITORY),
        "INGOT_HOME": str(home),
    }
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    with temporary_settings({PREFECT_API_URL: real_server}), get_client(sync_client=True) as client:
        # Not by the command line, which looks up pool types on the network (3.8.8).
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name="ingot", type="process", base_job_template=template)
        client.create_work_pool(pool)
        deploy = [*prefect, "deploy", "--all"]
        subprocess.run(deploy, cwd=REPOSITORY, env=environment, check=True)
        stage = Stage(client, home / "landing", folder / "starts")
        _apply_automations(stage, folder)
        _start_what_takes_time(stage)
        stage.worker = subprocess.Popen(
            [*prefect, "worker", "start", "--pool", "ingot"], cwd=folder, env=environment
        )
        try:
            yield stage
        finally:
            _stop(stage.worker)


def _stop(worker: subprocess.Popen[bytes] | None) -> None:
    if worker is not None and worker.poll() is None:
        worker.send_signal(signal.SIGINT)
        try:
            worker.wait(timeout=60)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _apply_automations(stage: Stage, folder: Path) -> None:
    impatient = with_silence_of(folder / "impatient", 20, "ingot-resume-crashed")
    for files in ([AUTOMATIONS], [AUTOMATIONS], [impatient]):
        stage.applied.append(apply_automations(files))
        stage.ids.append({one.name: one.id for one in stage.client.read_automations()})


def _start_what_takes_time(stage: Stage) -> None:
    client = stage.client
    nightly = client.read_deployment_by_name("release/nightly")
    schedule = CronSchedule(cron="* * * * *", timezone="UTC")
    client.create_deployment_schedules(nightly.id, [(schedule, True)])
    pull = {"prefect.deployments.steps.set_working_directory": {"directory": str(REPOSITORY)}}
    loop = client.create_deployment(
        client.create_flow(crash),
        "crash-loop",
        entrypoint="tests.flow.crashing_flow.crash",
        work_pool_name="ingot",
        tags=["ingot"],
        parameters={"starts": str(stage.starts)},
        pull_steps=[pull],
    )
    stage.crashing = _started_twice(client, loop)
    good_event(stage)
    bad_event(stage)


def _started_twice(client: SyncPrefectClient, deployment: UUID) -> UUID:
    """Put a run into the queue that has two starts behind it; the worker will make the third."""
    run = client.create_flow_run_from_deployment(deployment).id
    # Not by Crashed: a crash that follows another within the automation's patience is not told.
    for state in (Running(), AwaitingRetry(), Running(), AwaitingRetry()):
        client.set_flow_run_state(run, state, force=True)
    assert client.read_flow_run(run).run_count == MOST - 1
    return run


def good_event(stage: Stage) -> None:
    stage.emit("checkpoint.landed", {"prefect.resource.id": RESOURCE}, payload=PAYLOAD)


def bad_event(stage: Stage) -> None:
    labels = {"prefect.resource.id": "checkpoint.ffffffffffffffff"}
    stage.emit("checkpoint.landed", labels, payload={"name": "no path at all"})


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["entrypoint"] + entry["name"])
def test_server_has_each_deployment_as_the_file_says(stage: Stage, entry: dict[str, Any]) -> None:
    names = check_deployments()
    name = names[ENTRIES.index(entry)]
    found = stage.client.read_deployment_by_name(name)
    assert found.entrypoint == entry["entrypoint"]
    assert found.work_pool_name == "ingot"
    assert found.job_variables == entry["work_pool"]["job_variables"]
    assert found.parameters == entry.get("parameters", {})
    assert found.enforce_parameter_schema == entry.get("enforce_parameter_schema", True)
    assert found.tags == entry["tags"]
    assert found.description == entry["description"]
    limit, options = found.global_concurrency_limit, found.concurrency_options
    assert limit is not None
    assert options is not None
    assert limit.limit == entry["concurrency_limit"]["limit"]
    assert options.collision_strategy.value == entry["concurrency_limit"]["collision_strategy"]
    assert "request" in found.parameter_openapi_schema["properties"]


@pytest.mark.parametrize("name", ["release/nightly", "soak/weekly"])
def test_server_has_each_schedule(stage: Stage, name: str) -> None:
    wanted = [one["schedules"] for one in ENTRIES if name.endswith(one["name"])]
    found = stage.client.read_deployment_by_name(name).schedules
    kept = {one.slug: one for one in found if one.slug}
    for entry in wanted[0]:
        assert kept[entry["slug"]].schedule.cron == entry["cron"]
        assert kept[entry["slug"]].schedule.timezone == entry["timezone"]
        assert kept[entry["slug"]].active is entry["active"]
    assert len(kept) == len(wanted[0])


def test_server_has_the_trigger_as_the_file_says(stage: Stage) -> None:
    deployment = stage.client.read_deployment_by_name("release/on-checkpoint")
    related = stage.client.read_resource_related_automations(f"prefect.deployment.{deployment.id}")
    assert [one.name for one in related] == ["release-what-landed"]
    trigger = related[0].trigger
    assert trigger.expect == {"checkpoint.landed"}
    assert trigger.match.root == {"prefect.resource.id": "checkpoint.*"}
    assert trigger.for_each == {"prefect.resource.id"}
    assert related[0].actions[0].deployment_id == deployment.id


def test_automations_are_applied_once_and_changed_in_place(stage: Stage) -> None:
    names = [one.name for one in read_automations(AUTOMATIONS)]
    assert stage.applied == [
        [f"created {name}" for name in names],
        [],
        ["changed ingot-resume-crashed"],
    ]
    assert stage.ids[0] == stage.ids[1] == stage.ids[2]
    found = {one.name: one for one in stage.client.read_automations()}
    for one in read_automations(AUTOMATIONS):
        assert found[one.name].trigger.match_related == one.trigger.match_related
        assert found[one.name].actions == one.actions
        assert found[one.name].enabled


def test_what_is_no_longer_in_the_file_goes_and_what_is_not_ours_stays(
    stage: Stage, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    entries = yaml.safe_load(AUTOMATIONS.read_text())
    own.write_text(yaml.safe_dump([{**entries[0], "name": "one"}, {**entries[1], "name": "two"}]))
    assert apply_automations([own], dry_run=True) == ["created one", "created two"]
    assert apply_automations([own]) == ["created one", "created two"]
    own.write_text(yaml.safe_dump([{**entries[1], "name": "two"}]))
    assert apply_automations([own]) == ["removed one"]
    own.write_text("[]")
    assert apply_automations([own]) == ["removed two"]
    left = {one.name for one in stage.client.read_automations()}
    assert {"release-what-landed", "ingot-resume-crashed"} <= left


def test_automations_are_found_behind_more_than_the_server_lists_at_once(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = EventTrigger(expect={"team.never"}, posture=Posture.Reactive, threshold=1)
    other = AutomationCore(name="another team's", trigger=never, actions=[DoNothing()])
    own = tmp_path / "own.yaml"
    entries = yaml.safe_load(AUTOMATIONS.read_text())
    own.write_text(yaml.safe_dump([{**entries[0], "name": "one"}]))
    kept = stage.client.create_automation(other)
    # It lists 200 by default, and the first by name.
    listing = partialmethod(SyncPrefectClient.read_automations, limit=1)
    monkeypatch.setattr(SyncPrefectClient, "read_automations", listing)
    try:
        assert apply_automations([own]) == ["created one"]
        assert [one.name for one in stage.client.read_automations()] == [other.name]
        assert apply_automations([own]) == []
        own.write_text("[]")
        assert apply_automations([own]) == ["removed one"]
    finally:
        stage.client.delete_automation(kept)


def test_event_starts_a_run_with_what_it_says(stage: Stage) -> None:
    def started() -> FlowRun | None:
        runs = stage.runs_of("release/on-checkpoint")
        wanted = {"checkpoint": PAYLOAD["path"], "name": PAYLOAD["name"]}
        return next((run for run in runs if run.parameters == {"request": wanted}), None)

    run = until(started, "a run of what landed", again=lambda: good_event(stage))
    request = ReleaseRequest.model_validate(run.parameters["request"])
    assert str(request.checkpoint) == PAYLOAD["path"]
    ended = until(lambda: _ended(stage, run), "the end of that run")
    assert ended.name == "release-demo"
    assert "does not exist" in ended.state.message


def test_event_without_a_path_is_a_run_that_fails_and_says_why(stage: Stage) -> None:
    def started() -> FlowRun | None:
        runs = stage.runs_of("release/on-checkpoint")
        return next((run for run in runs if run.parameters["request"]["checkpoint"] is None), None)

    run = until(started, "a run without a path", again=lambda: bad_event(stage))
    state = until(lambda: _ended(stage, run), "the end of that run").state
    assert state.name == "Failed"
    assert "request.checkpoint" in state.message


def test_schedule_fires_and_finds_nothing_new(stage: Stage) -> None:
    def fired() -> FlowRun | None:
        runs = [run for run in stage.runs_of("release/nightly") if run.auto_scheduled]
        return next((run for run in runs if run.state.name == "NothingNew"), None)

    run = until(fired, "a scheduled run that ends as NothingNew")
    assert run.created_by.type == "SCHEDULE"
    assert run.expected_start_time.second == 0
    # A worker fetches what is due within its next 10 s, and may start it that much early (3.8.8).
    assert run.start_time >= run.expected_start_time - timedelta(seconds=10)
    assert run.state.is_completed()
    assert f"{stage.landing} holds no checkpoint without a verdict" in run.state.message
    deployment = stage.client.read_deployment_by_name("release/nightly")
    for schedule in deployment.schedules:
        if not schedule.slug:
            stage.client.delete_deployment_schedule(deployment.id, schedule.id)


def test_search_of_a_folder_that_is_not_there_is_a_failure(stage: Stage) -> None:
    # By the form's deployment: the nightly one would cancel it while the cron's own run goes on.
    manual = stage.client.read_deployment_by_name("release/manual")
    asked = {"request": {"checkpoint": "lading", "newest": True}}
    run = stage.client.create_flow_run_from_deployment(manual.id, parameters=asked)
    state = until(lambda: _ended(stage, run), "the end of that run").state
    assert state.is_failed()
    assert f"no folder {stage.landing.with_name('lading')}" in state.message


def test_crash_loop_is_resumed_until_the_flow_gives_up(stage: Stage) -> None:
    run = stage.client.read_flow_run(stage.crashing)

    def crashed_again() -> None:
        if _ended(stage, run, "Crashed"):
            stage.client.set_flow_run_state(run.id, Crashed(), force=True)

    ended = until(
        lambda: _ended(stage, run, "GaveUp"), f"GaveUp after {MOST} starts", again=crashed_again
    )
    assert ended.state.is_failed()
    assert ended.run_count == MOST + 1
    assert stage.starts.read_text().splitlines() == ["started"]
    crashes = [state.message for state in stage.states(run.id) if state.name == "Crashed"]
    assert any("SIGKILL" in (message or "") for message in crashes)
    back = [state.message for state in stage.states(run.id) if state.name == "AwaitingRetry"]
    assert "Started again after a crash." in back


def test_soak_of_nothing_is_no_failure(stage: Stage) -> None:
    weekly = stage.client.read_deployment_by_name("soak/weekly")
    run = stage.client.create_flow_run_from_deployment(weekly.id)
    ended = until(lambda: _ended(stage, run), "the end of the soak")
    assert ended.state.is_completed()
    assert ended.state.name == "NothingToSoak"


def _ended(stage: Stage, run: FlowRun, name: str | None = None) -> FlowRun | None:
    found = stage.client.read_flow_run(run.id)
    is_end = found.state.name == name if name else found.state.is_final()
    return found if is_end else None


# ---------------------------------------------------------------- notifications


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Give the address of a web hook on loopback, and what is posted to it."""
    letters: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            letters.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", letters
    server.shutdown()
    server.server_close()


def test_unknown_block_is_refused_with_those_there_are(stage: Stage, inbox: Any) -> None:
    CustomWebhookNotificationBlock(name="other", url=inbox[0]).save("other", overwrite=True)
    with pytest.raises(InputError, match=re.escape("custom-webhook/other")):
        notify_through("slack-webhook/nowhere")


def test_each_outcome_is_told_with_name_verdict_and_link(
    stage: Stage, real_server: str, inbox: Any
) -> None:
    url, letters = inbox
    body = {"subject": "{{subject}}", "body": "{{body}}"}
    hook = CustomWebhookNotificationBlock(name="team", url=url, method="POST", json_data=body)
    hook.save("team", overwrite=True)
    assert len(notify_through("custom-webhook/team")) == 5
    assert notify_through("custom-webhook/team") == []

    ends = {
        ("release/manual", "release-good"): Completed(message='INT4 is "champion"'),
        ("release/manual", "release-bad"): Completed(name="Refused", message="none passed"),
        ("release/nightly", "release-none"): Completed(name="NothingNew", message="nothing"),
    }
    runs = {name: _run_in_progress(stage, deployment, name) for deployment, name in ends}

    def end(name: str) -> None:
        state = next(state for (_, one), state in ends.items() if one == name)
        stage.client.set_flow_run_state(runs[name], state, force=True)

    def told(name: str) -> set[str]:
        return {one["body"] for one in letters if name in one["subject"]}

    for name in runs:
        end(name)
    _roll_back(stage)
    for name, words in (("release-good", 'INT4 is "champion"'), ("release-bad", "Refused")):
        (text,) = until(partial(told, name), f"the message about {name}", again=partial(end, name))
        assert words in text
        assert f"{real_server.removesuffix('/api')}/runs/flow-run/{runs[name]}" in text
    again = partial(_roll_back, stage)
    (text,) = until(partial(told, "mine rolled back"), "the message about it", again=again)
    assert "mine-int4-cpu:1 is champion of mine again" in text
    assert f"{real_server.removesuffix('/api')}/events/event/" in text
    assert told("release-none") == set()
    assert len([one for one in remove_automations() if "notify" in one]) == 5


def _run_in_progress(stage: Stage, deployment: str, name: str) -> UUID:
    found = stage.client.read_deployment_by_name(deployment)
    parameters = {"request": {"checkpoint": "/x"}}
    run = stage.client.create_flow_run_from_deployment(
        found.id, name=name, parameters=parameters, state=Running()
    )
    return run.id


def _roll_back(stage: Stage) -> None:
    """Emit what `ingot rollback` does; that it does is held in test_rollback_command."""
    payload = {"name": "mine", "champion": "mine-int4-cpu:1", "instead_of": "mine-int4-cpu:2"}
    stage.emit(EVENT, resource_of("mine"), payload=payload)


# ---------------------------------------------------------------- silence


def test_silent_run_is_crashed_and_one_that_never_started_is_queued_again(
    stage: Stage, tmp_path: Path
) -> None:
    _stop(stage.worker)
    names = ("ingot-crashed-when-silent", "ingot-requeue-never-started")
    impatient = with_silence_of(tmp_path / "impatient", 10, *names)
    entries = [e for e in yaml.safe_load(impatient.read_text()) if e["name"] in names]
    impatient.write_text(yaml.safe_dump(entries))
    apply_automations([impatient])

    silent, ended, taken = (_run_by_hand(stage) for _ in range(3))
    for run in (silent, ended):
        stage.client.set_flow_run_state(run.id, Running(), force=True)
        _beat(stage, run)
    stage.client.set_flow_run_state(ended.id, Completed(name="Partial"), force=True)
    _beat(stage, ended)  # one that was under way when the run ended

    def take() -> None:
        stage.client.set_flow_run_state(taken.id, Pending(), force=True)

    def names_of(run: FlowRun) -> list[str]:
        return [state.name for state in stage.states(run.id)]

    take()
    until(
        lambda: "Crashed" in names_of(silent),
        "the silent run to be Crashed",
        again=lambda: _beat(stage, silent),
    )
    until(lambda: "AwaitingRetry" in names_of(taken), "the run to be queued again", again=take)
    assert names_of(ended)[-1] == "Partial"
    remove_automations()


def _run_by_hand(stage: Stage) -> FlowRun:
    found = stage.client.read_deployment_by_name("release/manual")
    parameters = {"request": {"checkpoint": "/x"}}
    return stage.client.create_flow_run_from_deployment(found.id, parameters=parameters)


def _beat(stage: Stage, run: FlowRun) -> None:
    tag = {"prefect.resource.id": "prefect.tag.ingot", "prefect.resource.role": "tag"}
    labels = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
    stage.emit("prefect.flow-run.heartbeat", labels, related=[tag])
