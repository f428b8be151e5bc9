"""Workers of a real local Dask cluster: how wide each is, and what becomes of queued steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows import runners
from flows.runners import runner_of
from tasks.core.settings import Settings
from tests.cluster_rig import REPOSITORY, wait_until
from tests.cluster_steps import occupy

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.real


@pytest.fixture
def server() -> Iterator[None]:
    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, ingot_home: Path) -> Iterator[Any]:
    """Give a cluster that was there before, with room for one step."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    quiet = {"host": "127.0.0.1", "dashboard_address": None, "memory_limit": 0}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, **quiet) as made:
        yield made


@pytest.mark.parametrize(("wanted", "processes"), [(3, 3), (1, 2)])
def test_worker_of_the_local_cluster_runs_one_step_at_a_time(wanted: int, processes: int) -> None:
    with ExitStack() as stack:
        engine: Any = runners._start_dask(stack, None, wanted)
        engine.client.wait_for_workers(processes, timeout=runners.WORKERS_APPEAR_S)
        assert list(engine.client.nthreads().values()) == [1] * processes


@pytest.mark.usefixtures("server")
def test_steps_that_had_not_begun_when_their_flow_ended_never_begin(
    cluster: Any, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"

    @flow(
        task_runner=runner_of(Settings(runner="dask", cluster=cluster.scheduler_address)),
        persist_result=False,
    )
    def broken_off() -> None:
        futures = [occupy.submit(name, diary) for name in ("first", "second", "third")]
        wait_until(diary.exists)
        raise InterruptedError(f"with {len(futures)} on their way")

    with pytest.raises(InterruptedError):
        broken_off()
    with distributed.Client(cluster.scheduler_address) as other:
        # The only thread serves in turn: whatever was still queued has begun when this ends.
        other.submit(time.sleep, 0, pure=False).result()
    assert diary.read_text().splitlines() == ["began first", "ended first"]
