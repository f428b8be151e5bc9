"""Whether a worker has come online is told by the server's times, whatever clock is wrong."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from deployments.stack import up
from deployments.stack.members import worker_name
from deployments.stack.places import Plan, Role, Stack
from deployments.stack.processes import end, of_stack, start
from deployments.stack.up import _wait_until_ready, last_heartbeat
from tasks.core.errors import EnvironmentUnfit
from tasks.core.settings import Settings

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server")]

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
PLAN = Plan(api="", port=None, pool="online", folders=[], limit=1)


@pytest.fixture
def stack(ingot_home: Path) -> Iterator[Stack]:
    """Give a stack whose worker and watcher live, on a machine whose clock is an hour ahead."""
    found = Stack(Settings())
    for role in (Role.WORKER, Role.WATCHER):
        member = start(found, role, SLEEP, os.environ, ingot_home.parent)
        ahead = member.started + timedelta(hours=1)
        found.set_member(member.model_copy(update={"started": ahead}))
    with get_client(sync_client=True) as client:
        client.request("POST", "/work_pools/", json={"name": PLAN.pool, "type": "process"})
    yield found
    end(of_stack(found), grace_s=0)
    with get_client(sync_client=True) as client:
        client.request("DELETE", "/work_pools/{name}", path_params={"name": PLAN.pool})


def beat(stack: Stack) -> None:
    """Do what a worker does when it comes online."""
    with get_client(sync_client=True) as client:
        client.request(
            "POST",
            "/work_pools/{name}/workers/heartbeat",
            path_params={"name": PLAN.pool},
            json={"name": worker_name(stack)},
        )


def test_worker_is_online_once_the_server_has_heard_of_it_anew(stack: Stack) -> None:
    assert last_heartbeat(stack, PLAN.pool) is None
    beat(stack)
    heard = last_heartbeat(stack, PLAN.pool)
    assert heard is not None
    beating = threading.Timer(1.0, beat, [stack])
    beating.start()
    _wait_until_ready(stack, PLAN, heard)
    beating.join()
    assert last_heartbeat(stack, PLAN.pool) != heard


def test_heartbeat_of_the_worker_before_does_not_count(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(stack)
    monkeypatch.setattr(up, "READY_S", 1)
    with pytest.raises(EnvironmentUnfit, match="has not come online"):
        _wait_until_ready(stack, PLAN, last_heartbeat(stack, PLAN.pool))


def test_worker_that_ran_all_the_time_need_not_be_heard_anew(stack: Stack) -> None:
    beat(stack)
    _wait_until_ready(stack, PLAN, None)
