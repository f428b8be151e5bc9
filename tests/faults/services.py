"""kill -9 of what keeps releases going: Prefect's server, worker, watcher and keeper."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from deployments.stack.members import ENVIRONMENT
from deployments.stack.places import Role, Stack
from tasks.core.settings import Settings
from tests.faults.bench import COMMAND, Bench
from tests.faults.kills import EDGE
from tests.faults.points import WATCHER, Meeting, Point, at_rename, in_child
from tests.faults.prefect_api import PrefectApi
from tests.faults.runs import Champion, Run, wait_for
from tests.faults.starved import UNFIT
from tests.faults.table import Row
from tests.faults.warm import free_port, kill_tree, prefect_server
from tests.faults.workshop import Scene, scenario

STEP = "edge cases int4"
IN_STEP = in_child(STEP, EDGE, "edge cases 9/")
CLEAR_WITHIN_S = 180.0
# Longer than the run goes on without a server and Prefect's client then tries by itself (62 s in
# all): without the setting of `ingot up` the run fails. 80 s were too short to show that.
AWAY_S = 150.0

# One work pool and one trigger: what one scenario lets land, the worker of another would release.
_pool = threading.Lock()


@scenario
def embedded_server_killed(scene: Scene) -> None:
    bench = scene.bench(api=None)
    bench.forget("examine-edge-cases")
    run = bench.release(IN_STEP)
    child = run.reach()
    os.kill(_embedded_server(bench), signal.SIGKILL)
    killed_at = time.time()
    run.go_on(child)
    bench.require_champion(run, scene.warm.champion, "the embedded server was killed")
    bench.require_builds({})
    seconds = (bench.finished_at(STEP, killed_at) or time.time()) - killed_at
    outcome = "the command starts it again and ends right"
    scene.tell(Row("kill -9 of the embedded server", IN_STEP.name, outcome, seconds))


@scenario
def server_killed_for_good(scene: Scene) -> None:
    with prefect_server(scene.folder / "server") as (api, server):
        bench = scene.bench(api=api)
        bench.forget("examine-edge-cases")
        run = bench.release(IN_STEP)
        child = run.reach()
        kill_tree(server)
        killed_at = time.time()
        run.go_on(child)
        code = run.end()
    if code != UNFIT or "Traceback" in run.output() or "Prefect" not in run.output():
        bench.problems.append(f"server gone: exit code {code}: {run.output()}")
    if (waited_s := time.time() - killed_at) > CLEAR_WITHIN_S:
        bench.problems.append(f"server gone: said so only after {waited_s:.0f} s")
    bench.look("the server was killed")
    bench.environment["PREFECT_API_URL"] = scene.warm.api
    run = bench.release()
    bench.require_champion(run, scene.warm.champion, "the server was killed")
    bench.require_builds({})
    seconds = (bench.finished_at(STEP, run.started_at) or time.time()) - run.started_at
    outcome = "exit code 4, the server is named; with another server it goes on"
    scene.tell(Row("kill -9 of the configured server", IN_STEP.name, outcome, seconds))


def _embedded_server(bench: Bench) -> int:
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if process.environ().get("INGOT_HOME") == str(bench.home) and (
                "flows.server_main" in command or "create_app" in command
            ):
                return process.pid
        except psutil.Error:
            continue
    raise AssertionError("no embedded server")


@scenario
def worker_and_its_run_killed(scene: Scene) -> None:
    with _pool:
        bench = scene.bench()
        api = PrefectApi(scene.warm.api)
        api.deploy(bench)
        _worker_killed(scene, bench, api)
        _flow_killed_under_its_worker(scene, bench, api)
        _both_killed(scene, bench, api)
        bench.require_builds({})


def _worker_killed(scene: Scene, bench: Bench, api: PrefectApi) -> None:
    fault = "kill -9 of the worker"
    worker, release, child = _standing_release(bench, api)
    flow = psutil.Process(child).ppid()
    worker.kill()
    killed_at = time.time()
    os.kill(child, signal.SIGCONT)
    wait_for(lambda: not psutil.pid_exists(flow), "the flow to end, well or not")
    bench.look("the worker was killed")
    if api.state_of(release) == "COMPLETED":
        _require_champion(scene, bench, fault)
        _row(scene, bench, fault, "its run ends right without it", killed_at)
        return
    # Prefect's console log ends a process that cannot print to its worker any more (3.8.8).
    worker = _worker(bench)
    _resume(scene, bench, api, release, fault)
    worker.kill()


def _flow_killed_under_its_worker(scene: Scene, bench: Bench, api: PrefectApi) -> None:
    worker, release, child = _standing_release(bench, api)
    os.kill(psutil.Process(child).ppid(), signal.SIGKILL)
    api.wait_for(release, "CRASHED")
    bench.look("the flow under a worker was killed", frozenset({worker.pid}))
    # The worker reports a crash a second time, later: what was queued before that would be lost.
    api.wait_until_quiet(release, 45)
    _resume(scene, bench, api, release, "kill -9 of a worker's flow")
    worker.kill()


def _both_killed(scene: Scene, bench: Bench, api: PrefectApi) -> None:
    worker, release, child = _standing_release(bench, api)
    flow = psutil.Process(child).ppid()
    worker.kill()
    os.kill(flow, signal.SIGKILL)
    bench.look("worker and flow were killed")
    worker = _worker(bench)
    _resume(scene, bench, api, release, "kill -9 of worker and flow")
    worker.kill()


def _standing_release(bench: Bench, api: PrefectApi) -> tuple[Run, str, int]:
    """Start a worker and a release that stands in the middle of a step."""
    bench.forget("examine-edge-cases")
    for part in ("foundry", "ledger"):
        shutil.rmtree(bench.home / part, ignore_errors=True)
    bench.meeting.plant([IN_STEP])
    worker = _worker(bench)
    release = api.start_release(bench)
    child = worker.reach()
    return worker, release, child


def _worker(bench: Bench) -> Run:
    bench.environment["PREFECT_WORKER_QUERY_SECONDS"] = "2"
    command = (sys.executable, "-m", "prefect", "worker", "start", "--pool", "ingot")
    return bench.start(*command, "--type", "process")


def _resume(scene: Scene, bench: Bench, api: PrefectApi, release: str, fault: str) -> None:
    """Put the run back into the queue, as the automation for crashed runs does."""
    queued_at = time.time()
    api.queue_again(release)
    api.wait_for(release, "COMPLETED")
    _require_champion(scene, bench, fault)
    _row(scene, bench, fault, "queued again, the same run ends right", queued_at)


def _require_champion(scene: Scene, bench: Bench, after: str) -> None:
    wait_for(lambda: Champion.in_home(bench.home), "an entry in the ledger")
    found = Champion.in_home(bench.home)
    if found != scene.warm.champion:
        bench.problems.append(f"after {after}: {found} is champion")


def _row(scene: Scene, bench: Bench, fault: str, outcome: str, since: float) -> None:
    seconds = (bench.finished_at(STEP, since) or time.time()) - since
    scene.tell(Row(fault, IN_STEP.name, outcome, seconds))


@scenario
def server_comes_back_under_a_workers_run(scene: Scene) -> None:
    folder = scene.folder / "server"
    with prefect_server(folder) as (address, server):
        bench = scene.bench(api=address)
        retries = "PREFECT_CLIENT_MAX_RETRIES"
        bench.environment[retries] = ENVIRONMENT[retries]  # of `ingot up`
        api = PrefectApi(address)
        api.deploy(bench)
        worker, release, child = _standing_release(bench, api)
        kill_tree(server)
        killed_at = time.time()
        os.kill(child, signal.SIGCONT)
        wait_for(lambda: bench.finished_at(STEP, killed_at), "the step to end without a server")
        time.sleep(max(0.0, killed_at + AWAY_S - time.time()))
        with prefect_server(folder, urlsplit(address).port):
            api.wait_for(release, "COMPLETED")
            fault = "kill -9 of the server under a worker's run"
            _require_champion(scene, bench, fault)
            worker.kill()
            bench.look(fault)
            bench.require_builds({})
            outcome = "it is started again, and the same run ends right"
            _row(scene, bench, fault, outcome, killed_at)


@scenario
def keeper_killed(scene: Scene) -> None:
    bench = scene.bench(api=None)
    bench.meeting.plant([])
    stack = Stack(Settings(home=bench.home))
    port = str(free_port())
    _stack_command(bench, "up", "--port", port)
    before = _pids(stack)
    os.kill(before.pop(Role.KEEPER), signal.SIGKILL)
    killed_at = time.time()
    said = _stack_command(bench, "up", "--port", port)
    seconds = time.time() - killed_at
    after = _pids(stack)
    if "Started: keeper." not in said or not psutil.pid_exists(after.pop(Role.KEEPER)):
        bench.problems.append(f"the keeper was killed, and `ingot up` said: {said}")
    if after != before or not all(psutil.pid_exists(pid) for pid in after.values()):
        bench.problems.append(f"the keeper was killed: {before} became {after}")
    _stack_command(bench, "down")
    bench.look("the keeper was killed, and all was taken down")
    outcome = "the others run on, `ingot up` starts it again"
    scene.tell(Row("kill -9 of the keeper", "all of `ingot up` runs", outcome, seconds))


def _stack_command(bench: Bench, *words: str) -> str:
    run = bench.start(sys.executable, "-m", COMMAND, *words)
    code = run.end()
    assert code == 0, f"ingot {words[0]} ended with {code}: {run.output()}"
    return run.output()


def _pids(stack: Stack) -> dict[Role, int]:
    members = {role: stack.member(role) for role in Role}
    return {role: member.pid for role, member in members.items() if member is not None}


JOURNAL = r"/watch/journal\.json$"
LANDINGS = {
    "before": at_rename("announced, not yet in its journal", JOURNAL, "before", WATCHER),
    "after": at_rename("announced, just entered in its journal", JOURNAL, "after", WATCHER),
}


@scenario
def watcher_killed(scene: Scene) -> None:
    with _pool:
        bench = scene.bench()
        api = PrefectApi(scene.warm.api)
        api.deploy(bench)
        _killed_while_it_waits(scene, bench, api)
        for name, point in LANDINGS.items():
            _killed_at(scene, bench, api, name, point)
        api.delete_runs("release/on-checkpoint")
        bench.require_builds({})


def _killed_while_it_waits(scene: Scene, bench: Bench, api: PrefectApi) -> None:
    """Kill it after the last byte, while it waits for quiet."""
    landing = bench.folder / "landing-quiet"
    landing.mkdir()
    bench.meeting.plant([])
    before = api.count_runs("release/on-checkpoint")
    run = _watch(bench, landing, "--quiet", "300")
    wait_for(lambda: "watching" in run.output(), "the watcher to watch")
    shutil.copytree(bench.checkpoint, landing / "quiet")
    run.kill()
    _require_one_run(scene, bench, api, landing, before, "landed, not yet announced")


def _killed_at(scene: Scene, bench: Bench, api: PrefectApi, name: str, point: Point) -> None:
    landing = bench.folder / f"landing-{name}"
    landing.mkdir()
    Meeting(bench.folder / "faults").plant([point])
    before = api.count_runs("release/on-checkpoint")
    run = _watch(bench, landing, "--quiet", "2")
    shutil.copytree(bench.checkpoint, landing / name)
    run.reach()
    run.kill()
    _require_one_run(scene, bench, api, landing, before, point.name)


def _require_one_run(
    scene: Scene, bench: Bench, api: PrefectApi, landing: Path, before: int, point: str
) -> None:
    bench.look(f"the watcher was killed: {point}")
    run = _watch(bench, landing, "--quiet", "2", "--once")
    code = run.end()
    if code:
        bench.problems.append(f"the watcher after {point!r} ended with {code}: {run.output()}")
    wait_for(lambda: api.count_runs("release/on-checkpoint") > before, "a run of what landed")
    seconds = time.time() - run.started_at
    # The second run that there must not be would come from the second event, seconds later.
    time.sleep(10)
    started = api.count_runs("release/on-checkpoint") - before
    if started != 1:
        bench.problems.append(f"the watcher was killed, {point}: {started} runs instead of 1")
    scene.tell(Row("kill -9 of the watcher", point, "exactly one run", seconds))


def _watch(bench: Bench, landing: Path, *options: str) -> Run:
    return bench.start(sys.executable, "-m", "deployments.command", "watch", str(landing), *options)
