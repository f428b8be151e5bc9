"""`ingot up`, `status` and `down` on this machine: idempotent, mended, and nothing left behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack_runs import Ingot, soon

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def ingot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingot]:
    found = Ingot(tmp_path_factory.mktemp("stack"))
    try:
        yield found
    finally:
        found("down")
        for process in found.processes():
            process.kill()


def test_up_starts_everything_once(ingot: Ingot) -> None:
    first = ingot.up()
    assert f"http://127.0.0.1:{ingot.port}" in first
    assert str(ingot.home / "landing") in first
    before = ingot.members()
    assert list(before) == ["server", "worker", "watcher", "keeper"]
    again = ingot.up()
    assert "It was already running." in again
    assert ingot.members() == before


def test_deployments_and_automations_are_there(ingot: Ingot) -> None:
    deployed = {one["name"] for one in ingot.post("/deployments/filter")}
    assert {"on-checkpoint", "nightly", "weekly"} <= deployed
    automations = {one["name"] for one in ingot.post("/automations/filter")}
    assert "ingot-resume-crashed" in automations
    status = ingot.status()
    assert (status["complete"], status["answers"], status["pool"]) == (True, True, "ingot")


def test_killed_worker_and_keeper_come_back(ingot: Ingot) -> None:
    before = ingot.members()
    for process in ingot.processes():
        if process.pid == before["worker"]["pid"]:
            process.kill()
    # The keeper mends what died, by itself.
    worker = soon(
        lambda: (one := ingot.members()["worker"])["restarts"] and one["alive"] and one, "worker"
    )
    assert worker["restarts"] == 1
    assert worker["pid"] != before["worker"]["pid"]
    for process in ingot.processes():
        if process.pid == before["keeper"]["pid"]:
            process.kill()
    assert not ingot.status()["complete"]
    assert "Started: keeper." in ingot.up()
    after = ingot.members()
    assert after["server"] == before["server"]
    assert after["keeper"]["restarts"] == 1
    assert ingot.status()["complete"]


def searched_each_night(ingot: Ingot) -> str:
    (nightly,) = [one for one in ingot.post("/deployments/filter") if one["name"] == "nightly"]
    request = nightly["parameters"]["request"]
    assert request["newest"] is True
    return str(request["checkpoint"])


def test_nightly_searches_the_folder_that_is_watched(ingot: Ingot, tmp_path: Path) -> None:
    assert searched_each_night(ingot) == "landing"
    assert "Started: watcher." in ingot.up("--watch", tmp_path)
    assert searched_each_night(ingot) == str(tmp_path)
    assert "It was already running." in ingot.up()  # and is not deployed again
    assert searched_each_night(ingot) == str(tmp_path)


def test_lost_deployment_is_made_again(ingot: Ingot) -> None:
    (lost,) = [one for one in ingot.post("/deployments/filter") if one["name"] == "weekly"]
    ingot.delete(f"/deployments/{lost['id']}")
    assert "Deployed again" in ingot.up()
    assert "weekly" in {one["name"] for one in ingot.post("/deployments/filter")}


def test_port_of_somebody_else_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    other = Ingot(tmp_path)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", other.port))
        holder.listen()
        answer = other("up", "--port", str(other.port))
    assert answer.returncode == 4
    assert "--port" in answer.stderr
    assert other.processes() == []
    assert other("status").returncode == 0


def test_start_that_fails_half_way_ends_what_it_started(ingot: Ingot, tmp_path: Path) -> None:
    other = Ingot(tmp_path)
    other.environment["PREFECT_API_URL"] = ingot.api  # a configured server: none of its own
    answer = other("up", "--watch", "nosuch://bucket/models")
    assert answer.returncode == 4
    assert "the watcher ended at its start" in answer.stderr
    assert "nosuch" in answer.stderr  # from its log
    assert other.processes() == []
    assert not other.status()["wanted"]
    assert ingot.status()["complete"]


def test_down_leaves_no_process_no_port_and_says_when_nothing_runs(ingot: Ingot) -> None:
    assert ingot.processes()
    answer = ingot("down")
    assert answer.returncode == 0, answer.stderr
    assert ingot.processes() == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", ingot.port))
    assert ingot("down").stdout == "Nothing was running.\n"
    assert not ingot.status()["wanted"]
