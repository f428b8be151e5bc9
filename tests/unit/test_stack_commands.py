"""`ingot up`, `down`, `status`: options, words, exit codes, and what they start."""

from __future__ import annotations

import json
import multiprocessing
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deployments.stack import command, up
from deployments.stack.members import command_of, environment_for, worker_name
from deployments.stack.places import Plan, Role, Stack
from deployments.stack.prepare import digest_of_files, searched_folder
from deployments.stack.processes import end, of_stack, start
from deployments.stack.up import Order, Raised, plan_for
from tasks.core.errors import InputError, ResourceBusy
from tasks.core.settings import Settings
from tests.unit.test_stack_processes import SLEEP

PLAN = Plan(api="http://127.0.0.1:9/api", port=9, pool="ingot", folders=["/landing"], limit=4)


@pytest.fixture
def stack(ingot_home: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr(up, "choose_port", lambda _, wanted: wanted or 4200)
    return Stack(Settings())


def invoke(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    for one in (command.up, command.down, command.status):
        app.command()(one)
    answer = CliRunner().invoke(app, arguments)
    return answer.exit_code, answer.output


def test_landing_is_made_and_watched_by_default(stack: Stack, ingot_home: Path) -> None:
    plan = plan_for(stack, Order())
    assert plan.folders == [str(ingot_home / "landing")]
    assert (ingot_home / "landing").is_dir()
    assert (plan.port, plan.pool, plan.limit) == (4200, "ingot", 4)


def test_named_folders_are_watched_instead_and_buckets_too(stack: Stack, tmp_path: Path) -> None:
    plan = plan_for(stack, Order(folders=[str(tmp_path), "s3://team/models", str(tmp_path)]))
    assert plan.folders == [str(tmp_path), "s3://team/models"]


@pytest.mark.parametrize(
    ("folders", "searched"),
    [
        (["/srv/models", "/srv/more"], "/srv/models"),
        (["s3://team/models", "/srv/models"], "/srv/models"),
        (["s3://team/models"], "landed"),
        ([], "landing"),
    ],
)
def test_nightly_searches_the_first_folder_that_is_watched(
    ingot_home: Path, folders: list[str], searched: str
) -> None:
    assert searched_folder(PLAN.model_copy(update={"folders": folders})) == searched


def test_default_folder_is_searched_in_the_home_of_whoever_takes_the_run(
    stack: Stack, ingot_home: Path
) -> None:
    assert searched_folder(plan_for(stack, Order())) == "landing"


def test_bucket_alone_has_its_folder_made_before_anything_landed(
    stack: Stack, ingot_home: Path
) -> None:
    plan = plan_for(stack, Order(folders=["s3://team/models"]))
    assert (ingot_home / searched_folder(plan)).is_dir()


def test_another_watched_folder_is_a_reason_to_deploy_again(ingot_home: Path) -> None:
    other = PLAN.model_copy(update={"folders": ["/srv/models"]})
    assert digest_of_files(other) != digest_of_files(PLAN)
    more = other.model_copy(update={"folders": ["/srv/models", "/srv/more"]})
    assert digest_of_files(more) == digest_of_files(other)


def test_folder_that_is_not_there_is_refused(stack: Stack, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        plan_for(stack, Order(folders=[str(tmp_path / "lading")]))


@pytest.mark.parametrize("secret", ["sftp://user:s3cret@host/models", "s3://b/p?key=s3cret"])
def test_url_with_a_secret_is_refused_before_anything_keeps_it(
    stack: Stack, ingot_home: Path, secret: str
) -> None:
    code, text = invoke("up", "--watch", secret)
    assert code == 2
    assert "--watch holds more than an address" in text
    kept = [file.read_text() for file in ingot_home.rglob("*") if file.is_file()]
    assert [place for place in (text, *kept) if "s3cret" in place] == []


def test_second_up_keeps_what_the_first_was_told(stack: Stack, tmp_path: Path) -> None:
    stack.set_plan(plan_for(stack, Order(folders=[str(tmp_path)], pool="other", limit=2)))
    again = plan_for(stack, Order())
    assert (again.folders, again.pool, again.limit) == ([str(tmp_path)], "other", 2)


def test_option_that_would_restart_a_running_worker_is_refused(stack: Stack) -> None:
    stack.set_plan(plan_for(stack, Order(limit=2)))
    stack.set_member(start(stack, Role.WORKER, SLEEP, os.environ, stack.folder.parent))
    try:
        assert plan_for(stack, Order(limit=2)).limit == 2
        with pytest.raises(InputError, match="limit 2") as refusal:
            plan_for(stack, Order(limit=3))
        assert "ingot down" in str(refusal.value)
    finally:
        end(of_stack(stack), grace_s=0)


def test_processes_know_this_stack_and_tell_nobody(
    stack: Stack, ingot_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "7")
    environment = environment_for(PLAN)
    assert environment["INGOT_HOME"] == str(ingot_home)
    assert environment["INGOT_MACHINE"] == str(Settings().machine)
    assert environment["PREFECT_API_URL"] == PLAN.api
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert environment["PREFECT_LOGGING_EXTRA_LOGGERS"] == "flows,tasks"
    assert environment["PREFECT_WORKER_QUERY_SECONDS"] == "7"  # what the user set stays


def test_address_of_a_configured_server_is_inherited_with_its_credentials(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://me:secret@prefect.example.com/api")
    plan = PLAN.model_copy(update={"port": None, "api": "https://prefect.example.com/api"})
    assert "secret" in environment_for(plan)["PREFECT_API_URL"]
    stack.set_plan(plan)
    assert "secret" not in (stack.folder / "plan.json").read_text()


def test_server_listens_on_loopback_only(stack: Stack) -> None:
    server = command_of(Role.SERVER, PLAN, stack)
    assert server[server.index("--host") + 1] == "127.0.0.1"
    worker = command_of(Role.WORKER, PLAN, stack)
    assert worker[worker.index("--name") + 1] == worker_name(stack)


def test_unreadable_state_is_as_none(stack: Stack) -> None:
    stack.set_plan(PLAN)
    assert stack.plan() == PLAN
    (stack.folder / "plan.json").write_text('{"of": "another version"}')
    assert stack.plan() is None


def _hold(home: str, ready: object, go: object) -> None:
    with Stack(Settings(home=Path(home))).locked():
        ready.set()  # type: ignore[attr-defined]
        go.wait(120)  # type: ignore[attr-defined]


def test_two_at_once_take_turns_and_a_killed_one_holds_nothing(
    stack: Stack, ingot_home: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(ingot_home), ready, go))
    other.start()
    assert ready.wait(120)
    with pytest.raises(ResourceBusy, match="ingot up"), stack.locked(timeout_s=0.2):
        pass
    other.kill()
    other.join(120)
    with stack.locked(timeout_s=60):
        pass


def test_down_and_status_of_nothing_say_so(stack: Stack) -> None:
    assert invoke("down") == (0, "Nothing was running.\n")
    assert invoke("status") == (0, "Nothing runs; `ingot up` starts it.\n")
    code, text = invoke("status", "--json")
    assert (code, json.loads(text)["wanted"]) == (0, False)


def test_status_of_what_should_run_and_does_not_is_3(stack: Stack) -> None:
    stack.set_plan(PLAN)
    code, text = invoke("status")
    assert code == 3
    assert "worker    DOWN" in text
    assert "does not answer" in text
    document = json.loads(invoke("status", "--json")[1])
    assert document["complete"] is False
    assert [one["role"] for one in document["members"]] == [role.value for role in Role]


def test_up_says_where_things_are_and_what_to_do_next() -> None:
    first = "\n".join(command.words_for(Raised(PLAN, [Role.WORKER], deployed=True), "/logs"))
    for text in ("Started: worker", "http://127.0.0.1:9", "/landing", "/logs", "ingot down"):
        assert text in first
    again = command.words_for(Raised(PLAN, [], deployed=False), "/logs")
    assert again[0] == "It was already running."
    changed = command.words_for(Raised(PLAN, [], deployed=True), "/logs")
    assert "prefect.yaml" in changed[0]


def test_status_line_counts_restarts() -> None:
    from deployments.stack.status import MemberStatus, Status

    since = datetime(2026, 11, 22, tzinfo=UTC)
    member = MemberStatus(
        role=Role.WORKER, alive=True, pid=7, since=since, restarts=2, log="/logs/worker.log"
    )
    lines = command.lines_of(Status(wanted=True, complete=True, members=[member]))
    assert lines == ["worker    since 2026-11-22 00:00:00Z, pid 7, started again 2 times"]
