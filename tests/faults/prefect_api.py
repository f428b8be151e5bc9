"""What the faults ask of a Prefect server, over its REST interface: deploy, start, queue again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from typing import Any

import httpx

from tests.faults.bench import Bench
from tests.faults.runs import REPOSITORY, wait_for
from tests.patient_client import patient_client

_deployed: set[str] = set()
_mutex = threading.Lock()


class PrefectApi:
    """One server."""

    def __init__(self, address: str) -> None:
        self._address = address

    def deploy(self, bench: Bench) -> None:
        """Deploy prefect.yaml once: each time makes its triggers anew."""
        prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
        pool = [*prefect, "work-pool", "create", "ingot", "--type", "process", "--overwrite"]
        with _mutex:
            if self._address in _deployed:
                return
            for command in (pool, [*prefect, "deploy", "--all"]):
                subprocess.run(
                    command, cwd=REPOSITORY, env=bench.environment, check=True, capture_output=True
                )
            _deployed.add(self._address)

    def start_release(self, bench: Bench) -> str:
        """Start release/manual on the bench's checkpoint; gives the run's id."""
        request = {
            "checkpoint": str(bench.checkpoint),
            "questions": str(bench.questions),
            "name": "demo",
            "precisions": ["int4"],
            "examination": "smoke",
        }
        run = self._post(
            f"deployments/{self._deployment('release/manual')}/create_flow_run",
            {"parameters": {"request": request}},
        )
        return str(run["id"])

    def queue_again(self, run: str) -> None:
        """Set a run's state as the automation for crashed runs does."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "queued again by a test"}
        self._post(f"flow_runs/{run}/set_state", {"state": state, "force": False})

    def wait_for(self, run: str, state: str) -> None:
        """Wait until a run is in a state of this type; a server that is busy is asked again."""

        def is_so() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return self.state_of(run) == state
            return False

        wait_for(is_so, f"the run to be {state}")

    def state_of(self, run: str) -> str:
        """Give the type of a run's state."""
        return str(self._run(run)["state_type"])

    def wait_until_quiet(self, run: str, seconds: float) -> None:
        """Wait until a run's state has not been set for so long."""
        known, since = self._run(run)["state_id"], time.monotonic()
        while time.monotonic() - since < seconds:
            time.sleep(1)
            if (now := self._run(run)["state_id"]) != known:
                known, since = now, time.monotonic()

    def count_runs(self, deployment: str) -> int:
        """Count the runs of a deployment."""
        return int(self._post("flow_runs/count", self._of(deployment)))

    def delete_runs(self, deployment: str) -> None:
        """Delete the runs of a deployment, so that no worker takes them."""
        for run in self._post("flow_runs/filter", self._of(deployment)):
            self._ask("DELETE", f"flow_runs/{run['id']}")

    def _of(self, deployment: str) -> dict[str, Any]:
        return {"deployments": {"id": {"any_": [self._deployment(deployment)]}}}

    def _deployment(self, name: str) -> str:
        return str(self._ask("GET", f"deployments/name/{name}").json()["id"])

    def _run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"flow_runs/{run}").json()
        return found

    def _post(self, path: str, document: dict[str, Any]) -> Any:
        return self._ask("POST", path, json=document).json()

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        # A client of its own, because faults ask from several threads.
        with patient_client(self._address) as client:
            return client.request(method, path, **options).raise_for_status()
