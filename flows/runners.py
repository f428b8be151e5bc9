"""Where the tasks of a release run: threads of this process, or a Dask or Ray cluster.

One setting decides (`INGOT_RUNNER`); the flow reads the same. Dask and Ray are imported here, when
their first task is submitted, and nowhere else.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from prefect import Task
from prefect.client.schemas.objects import RunInput
from prefect.filesystems import RemoteFileSystem
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.remote_steps import follow
from flows.remote_tasks import Dispatch, at_worker
from tasks.core.errors import EnvironmentUnfit, InputError, ToolMissing
from tasks.core.progress import step
from tasks.core.settings import Settings
from tasks.core.shared_objects import shared_url
from tasks.core.shared_store import records_block

Runner = TaskRunner[PrefectFuture[Any]]
Kind = Literal["dask", "ray"]

# The clock is that of the machine that serves the champion, and whose environment is reported.
TIMED = frozenset({"tune variants", "measure speed"})
FEWEST_WORKERS = 2  # one that dies has another beside it
WORKERS_APPEAR_S = 120
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def runner_of(settings: Settings) -> Runner:
    """Give the task runner that the settings name; nothing is started yet."""
    if settings.runner == "thread":
        return cast("Runner", ThreadPoolTaskRunner(max_workers=settings.workers))
    return ClusterRunner(settings.runner, settings.cluster, settings.workers)


def prepare_cluster(settings: Settings) -> None:
    """See that runner and shared store go together, and tell Prefect where the records are.

    Raises:
        ToolMissing: the extra of the runner is not installed.
        InputError: the settings contradict each other.
        EnvironmentUnfit: other machines cannot reach this Prefect server.
    """
    url = shared_url(settings.shared) if settings.shared else None
    if settings.runner != "thread":
        _require_extra(settings.runner)
        if settings.cluster is not None:
            _require_reach(settings.cluster, url)
    if url is not None and not url.startswith("file://"):
        # No credentials in it: fsspec takes them from the environment of each machine.
        block = RemoteFileSystem(basepath=f"{url}/records")
        block.save(records_block(url), overwrite=True)


class ClusterRunner(TaskRunner[PrefectFuture[Any]]):
    """Submits tasks to Dask or Ray through Prefect's runner, with what they need put in reach.

    Args:
        kind: the engine.
        address: of a cluster that is there; None starts one on this machine for the run.
        workers: steps that such a cluster runs side by side.
    """

    def __init__(self, kind: Kind, address: str | None, workers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind: Kind = kind
        self._address = address
        self._workers = workers
        self._stack = ExitStack()
        self._engine: TaskRunner[Any] | None = None
        self._here: ThreadPoolTaskRunner[Any] | None = None
        self._dispatch: Dispatch | None = None

    def duplicate(self) -> ClusterRunner:
        """Give another that is not started; Prefect has one a flow run, and one a worker."""
        return ClusterRunner(self._kind, self._address, self._workers)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the cluster; one that was started for the run ends."""
        self._stack.__exit__(kind, problem, trace)
        super().__exit__(kind, problem, trace)

    def submit(
        self,
        task: Task[Any, Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> PrefectFuture[Any]:
        """Submit one task; timing steps stay on this machine.

        Raises:
            EnvironmentUnfit: there is no such cluster, or it has no workers.
        """
        if task.name in TIMED:
            here = self._on_this_machine()
            return cast("PrefectFuture[Any]", here.submit(task, parameters, wait_for, dependencies))
        engine, dispatch = self._started_engine()
        name = str(task.task_run_name).format(**parameters)
        work = at_worker(task, name, dispatch.order(parameters))
        with _ray_options() if self._kind == "ray" else ExitStack():
            future: PrefectFuture[Any] = engine.submit(work, parameters, wait_for, dependencies)
        follow(future, name)
        return future

    def _on_this_machine(self) -> ThreadPoolTaskRunner[Any]:
        if self._here is None:
            self._here = self._stack.enter_context(ThreadPoolTaskRunner(max_workers=self._workers))
        return self._here

    def _started_engine(self) -> tuple[TaskRunner[Any], Dispatch]:
        if self._engine is None or self._dispatch is None:
            with step(f"start {self._kind}") as say:
                say(self._address or f"{_processes(self._workers)} processes on this machine")
                start = _start_dask if self._kind == "dask" else _start_ray
                try:
                    self._engine = start(self._stack, self._address, self._workers)
                except Exception as problem:  # Ray raises the bare class
                    raise EnvironmentUnfit(
                        f"there is no {self._kind} cluster to work on: {problem}",
                        expected=f"one at {self._address}" if self._address else "a local one",
                        next_step="see that its workers run, and that INGOT_CLUSTER is its address",
                    ) from problem
                self._dispatch = Dispatch(Settings(), is_elsewhere=self._address is not None)
        return self._engine, self._dispatch


def _start_dask(stack: ExitStack, address: str | None, workers: int) -> TaskRunner[Any]:
    from prefect_dask import DaskTaskRunner

    local = {
        "n_workers": _processes(workers),
        # Tasks that start at once in threads of one process import and parse at once, and CPython
        # before 3.11.8 counts their depths in one place (python/cpython#106905): two of four
        # builds failed so, with three threads, on 3.11.7.
        "threads_per_worker": 1,
        "processes": True,
        "host": "127.0.0.1",
        "dashboard_address": None,
        # A nanny would kill a worker for memory that its children use under reservations.
        "memory_limit": 0,
    }
    runner = DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=local)
    stack.enter_context(runner)
    runner.client.wait_for_workers(1, timeout=WORKERS_APPEAR_S)
    return cast("TaskRunner[Any]", runner)


def _processes(workers: int) -> int:
    """Give how many a cluster of this machine has; each runs one step at a time."""
    return max(FEWEST_WORKERS, workers)


def _start_ray(stack: ExitStack, address: str | None, workers: int) -> TaskRunner[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from prefect_ray import RayTaskRunner

    options: dict[str, Any] = {"log_to_driver": False}
    if "RAY_AUTH_TOKEN" in os.environ:
        # `ray start` takes a token for this by itself, whoever joins does not (2.60).
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if address is None:
        # Or Ray writes one into the user's home and leaves it there (2.60).
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        local = {"num_cpus": _processes(workers), "_node_ip_address": "127.0.0.1"}
        options |= {"include_dashboard": False, **local}
    return cast(
        "TaskRunner[Any]",
        stack.enter_context(RayTaskRunner(address=address, init_kwargs=options)),
    )


def _ray_options() -> Any:
    """Spread tasks over nodes; a step is light, and its children wait for memory by themselves."""
    from prefect_ray.context import remote_options

    return remote_options(num_cpus=1, scheduling_strategy="SPREAD")


def _require_extra(kind: Kind) -> None:
    if importlib.util.find_spec(f"prefect_{kind}") is None:
        raise ToolMissing(
            f"INGOT_RUNNER={kind} needs prefect-{kind}, which is not installed",
            next_step="python make.py cluster",
        )


def _require_reach(address: str, url: str | None) -> None:
    if url is None:
        raise InputError(
            "a cluster of other machines needs a place that all of them share",
            expected="INGOT_SHARED, a folder or s3://bucket/prefix, here and on each worker",
            got=f"INGOT_CLUSTER={address} alone",
            next_step="set it, or unset INGOT_CLUSTER for a cluster on this machine",
        )
    api = urlsplit(PREFECT_API_URL.value() or "//localhost").hostname
    if api in _LOOPBACK and urlsplit(address).hostname not in (*_LOOPBACK, None):
        raise EnvironmentUnfit(
            "the cluster's workers cannot reach this Prefect server",
            expected="PREFECT_API_URL with an address that other machines know",
            got=f"a server on {api}",
            next_step="use a shared server (docs/cluster.md)",
        )
