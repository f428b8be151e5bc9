"""Steps on a real local cluster, Dask's and Ray's: what is heard of them, and dying workers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.artifacts import follow
from flows.fan_out import Settled, settle
from flows.runners import Kind, runner_of
from flows.step_log import StepLog
from tasks.core.errors import ChildKilled, EnvironmentUnfit, VariantUnusable
from tasks.core.progress import StepEvent, StepState, listening
from tasks.core.records import Measurement
from tasks.core.settings import Settings
from tests.cluster_steps import TOOK_S, die, fail, measure

pytestmark = pytest.mark.real

FOR_EVER = 1000
ATTEMPTS = 3  # Ray gives its own processes 30 s to start, whatever else the machine does


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@dataclass
class Heard:
    """One run of the flow, and what a listener heard."""

    settled: Settled[Measurement]
    again: Settled[Measurement]
    events: list[StepEvent]
    log: StepLog

    def states(self, step: str) -> list[StepState]:
        return [event.state for event in self.events if event.step == step]


@pytest.fixture(scope="module", params=["dask", "ray"])
def heard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Heard:
    kind: Kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INGOT_HOME", str(folder / "home"))
        # Both engines try four times; twice shows the same.
        patch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
        patch.setenv("RAY_TASK_MAX_RETRIES", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(EnvironmentUnfit):
                return run_on(kind, folder)
        return run_on(kind, folder)


def run_on(kind: Kind, folder: Path) -> Heard:
    settings = Settings(runner=kind)
    here: Any = measure.with_options(result_storage=settings.records)
    once, always = folder / "once", folder / "always"

    @flow(name="steps", task_runner=runner_of(settings), persist_result=False)
    def steps() -> tuple[Settled[Measurement], Settled[Measurement]]:
        futures = {
            "one": here.submit("one"),
            "two": here.submit("two"),
            "bad": fail.submit("bad"),
        }
        first = settle(follow("things", futures), "measure")
        again = settle({"one": here.submit("one")}, "measure")
        # One after the other: a worker that dies takes all its steps along.
        once_more = settle({"once": die.submit("once", once, 1)}, "die")
        lost = settle({"always": die.submit("always", always, FOR_EVER)}, "die")
        results = {**first.results, **once_more.results}
        failures = {**first.failures, **once_more.failures, **lost.failures}
        return Settled(results, failures), again

    events: list[StepEvent] = []
    log = StepLog()
    with listening(events.append), listening(log.hear):
        settled, again = steps()
    return Heard(settled, again, events, log)


def test_results_and_failures_come_back_as_they_are(heard: Heard) -> None:
    assert heard.settled.results["one"] == Measurement(value=1.0)
    assert isinstance(heard.settled.failures["bad"], VariantUnusable)
    assert heard.settled.failures["bad"].next_step == "none"


def test_begin_and_end_are_heard_with_the_time_between_and_the_last_line(heard: Heard) -> None:
    assert heard.states("measure one")[:2] == [StepState.STARTED, StepState.FINISHED]
    timing = next(timing for timing in heard.log.timings if timing.step == "measure one")
    assert TOOK_S * 0.9 < timing.seconds < 60
    assert "in process" in timing.detail


def test_failure_is_heard_with_its_reason(heard: Heard) -> None:
    assert heard.states("fail bad") == [StepState.STARTED, StepState.FAILED]
    assert next(t.detail for t in heard.log.timings if t.step == "fail bad").startswith("planted")


def test_second_time_is_cached_and_heard_so(heard: Heard) -> None:
    assert heard.again.results["one"] == Measurement(value=1.0)
    assert heard.states("measure one")[-1] is StepState.CACHED
    assert heard.log.cached == ["measure one"]


def test_step_whose_worker_dies_once_runs_on_another(heard: Heard) -> None:
    assert heard.settled.results["once"] == Measurement(value=2.0)


def test_step_whose_worker_always_dies_fails_alone(heard: Heard) -> None:
    assert isinstance(heard.settled.failures["always"], ChildKilled)
    assert heard.states("die always")[-1] is StepState.FAILED


EMBEDDED = """
import os, psutil
from prefect import flow
from flows.embedded_server import start_prefect
with start_prefect('prefect'):
    from flows.fan_out import settle
    from flows.runners import runner_of
    from tasks.core.settings import Settings
    from tests.cluster_steps import measure

    @flow(task_runner=runner_of(Settings()), persist_result=False)
    def steps():
        found = settle({"one": measure.submit("one"), "two": measure.submit("two")}, "measure")
        me = psutil.Process()
        below = [" ".join(p.cmdline()) for p in me.children(recursive=True)]
        servers = ("flows.server_main", "prefect.server.api.server:create_app")
        return len(found.results), sum(any(s in line for s in servers) for line in below)

    print(*steps())
"""


def test_workers_use_the_commands_embedded_server(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    told = {
        "INGOT_HOME": str(tmp_path / "home"),
        "INGOT_RUNNER": "dask",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    script = tmp_path / "script.py"
    script.write_text(f"if __name__ == '__main__':\n{indent(EMBEDDED, '    ')}")
    found = subprocess.run(
        [sys.executable, str(script)],
        env={**environment, **told},
        capture_output=True,
        text=True,
        check=False,
    )
    results, servers = found.stdout.split()[-2:]
    assert (results, servers) == ("2", "1"), found.stderr[-3000:]
