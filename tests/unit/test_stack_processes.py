"""Processes that outlive their command: found again, never mistaken, ended whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from deployments.stack import members, processes
from deployments.stack.members import is_due, mend
from deployments.stack.places import Member, Plan, Role, Stack
from deployments.stack.processes import (
    TOKEN,
    bound_log,
    end,
    last_lines,
    of_stack,
    process_of,
    start,
    tree,
)
from tasks.core.settings import Settings
from tests.unit.test_clock_jumps import Jumping

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
PLAN = Plan(api="http://127.0.0.1:9/api", port=9, pool="ingot", folders=["/landing"], limit=4)


@pytest.fixture
def stack(ingot_home: Path) -> Iterator[Stack]:
    found = Stack(Settings())
    yield found
    end(of_stack(found), grace_s=0)


def soon(condition: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + 120
    while not condition():
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.05)
    return True


def launch(stack: Stack, command: list[str], role: Role = Role.WATCHER) -> Member:
    return start(stack, role, command, os.environ, stack.folder.parent)


def test_started_process_is_found_again(stack: Stack) -> None:
    stack.set_member(launch(stack, SLEEP))
    member = stack.member(Role.WATCHER)
    process = process_of(member)
    assert process is not None
    assert process.pid != os.getpid()
    end([process])
    assert process_of(member) is None


def test_process_leads_a_session_and_writes_its_own_log(stack: Stack) -> None:
    said = "import time; print('hello', flush=True); time.sleep(600)"
    member = launch(stack, [sys.executable, "-c", said])
    if sys.platform != "win32":
        assert os.getsid(member.pid) == member.pid
    assert soon(lambda: last_lines(stack.log(Role.WATCHER)).endswith("hello"))


def test_reused_pid_is_never_taken_for_a_member(stack: Stack) -> None:
    member = launch(stack, SLEEP)
    stranger = member.model_copy(update={"token": "of a process that had this pid before"})
    assert process_of(stranger) is None
    assert process_of(member) is not None


def test_set_clock_does_not_lose_a_member(stack: Stack) -> None:
    member = launch(stack, SLEEP)
    assert process_of(member.model_copy(update={"created_s": member.created_s - 3600})) is not None


def test_end_leaves_nothing_of_a_tree_that_ignores_the_signal(stack: Stack) -> None:
    child = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    parent = (
        f"import subprocess,sys,time; subprocess.Popen([sys.executable, '-c', {child!r}]);"
        "time.sleep(600)"
    )
    process = process_of(launch(stack, [sys.executable, "-c", parent]))
    assert process is not None
    assert soon(lambda: len(tree(process)) == 2)
    time.sleep(1)  # the child sets its signal handler
    whole = tree(process)
    end(whole, grace_s=1)
    assert not any(one.is_running() for one in whole)


def test_orphan_of_a_killed_member_is_still_of_the_stack(stack: Stack) -> None:
    parent = (
        f"import subprocess,time; subprocess.Popen({SLEEP!r}, start_new_session=True);"
        "time.sleep(600)"
    )
    process = process_of(launch(stack, [sys.executable, "-c", parent]))
    assert process is not None
    assert soon(lambda: len(tree(process)) == 2)
    orphan = tree(process)[1]
    end([process], grace_s=0)
    assert orphan in of_stack(stack)
    end(of_stack(stack), grace_s=0)
    assert not orphan.is_running()


def test_own_process_and_other_stacks_are_left_alone(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_STACK", str(stack.folder))
    assert os.getpid() not in {process.pid for process in of_stack(stack)}
    other = Stack(Settings(home=tmp_path / "other"))
    member = launch(other, SLEEP)
    try:
        assert of_stack(stack) == []
        assert [process.pid for process in of_stack(other)] == [member.pid]
    finally:
        end(of_stack(other), grace_s=0)


def test_log_is_bounded_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 1000)
        bound_log(log, limit_bytes=100)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert log.with_suffix(".1.log").stat().st_size == 100
    bound_log(log, limit_bytes=100)
    assert log.read_bytes() == b"new\n"


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every role of a plan run a process that only sleeps."""
    monkeypatch.setattr(members, "command_of", lambda *_: SLEEP)


@pytest.mark.usefixtures("sleepers")
def test_what_died_is_started_again_and_counted(stack: Stack) -> None:
    assert mend(stack, PLAN) == [Role.SERVER, Role.WORKER, Role.WATCHER]
    assert mend(stack, PLAN) == []
    victim = process_of(stack.member(Role.WORKER))
    assert victim is not None
    victim.kill()
    assert soon(lambda: process_of(stack.member(Role.WORKER)) is None)
    assert mend(stack, PLAN, time.monotonic() + 60) == [Role.WORKER]
    member = stack.member(Role.WORKER)
    assert member is not None
    assert (member.restarts, member.quick_deaths) == (1, 1)
    assert member.pid != victim.pid


@pytest.mark.usefixtures("sleepers")
def test_configured_server_is_not_started(stack: Stack) -> None:
    plan = PLAN.model_copy(update={"port": None})
    assert mend(stack, plan) == [Role.WORKER, Role.WATCHER]


def died(*, started_s: float, quick_deaths: int = 0) -> Member:
    return Member(
        role=Role.SERVER,
        pid=1,
        token="",
        created_s=0,
        command=[],
        started=datetime(2026, 11, 22, tzinfo=UTC),
        started_s=started_s,
        quick_deaths=quick_deaths,
    )


@pytest.mark.usefixtures("sleepers")
@pytest.mark.parametrize("jump", [-timedelta(hours=1), timedelta(hours=1)])
def test_clock_that_is_set_keeps_nothing_from_coming_back(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    monkeypatch.setattr(members, "FIRST_PAUSE_S", 0)
    mend(stack, PLAN)
    end(tree(process_of(stack.member(Role.WORKER))), grace_s=0)
    for module in (members, processes):  # whichever of them asks for the time of day
        monkeypatch.setattr(module, "datetime", Jumping, raising=False)
    monkeypatch.setattr(Jumping, "offset", jump)
    assert mend(stack, PLAN) == [Role.WORKER]
    member = stack.member(Role.WORKER)
    assert member is not None
    assert member.quick_deaths == 1


def test_what_died_with_the_machine_is_started_at_once() -> None:
    assert is_due(died(started_s=86_400, quick_deaths=9), now_s=40)


def test_what_dies_at_once_waits_longer_each_time() -> None:
    def due(quick_deaths: int, seconds: float) -> bool:
        return is_due(died(started_s=1000 - seconds, quick_deaths=quick_deaths), now_s=1000)

    assert due(0, 3)
    assert not due(3, 15)
    assert due(3, 17)
    assert not due(50, 299)
    assert due(50, 301)


def test_pid_of_a_process_that_never_was_is_dead(stack: Stack) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    member = launch(stack, SLEEP).model_copy(update={"pid": gone.pid})
    assert process_of(member) is None
    assert not psutil.pid_exists(gone.pid)


def test_other_commands_find_the_server_while_it_lives(stack: Stack) -> None:
    from flows.stack_server import TOKEN as READ_AS
    from flows.stack_server import stack_api

    assert READ_AS == TOKEN
    assert stack_api(Settings()) is None
    member = launch(stack, SLEEP, Role.SERVER).model_copy(update={"api": PLAN.api})
    stack.set_member(member)
    assert soon(lambda: stack_api(Settings()) == PLAN.api)
    stack.set_member(member.model_copy(update={"token": "of one that had this pid before"}))
    assert stack_api(Settings()) is None
    stack.set_member(member)
    end(of_stack(stack), grace_s=0)
    assert stack_api(Settings()) is None
