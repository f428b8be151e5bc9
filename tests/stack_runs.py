"""`ingot up` and what belongs to it, as a user types it, in a home of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.patient_client import patient_client

REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE_S = 240.0


class Ingot:
    """The commands in a home of its own, with a server on a free port."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._client = patient_client(self.api)
        plain = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        self.environment = {
            **plain,
            "INGOT_HOME": str(self.home),
            "INGOT_MACHINE": str(folder / "machine"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "200",
        }

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deployments.command", *map(str, arguments)],
            env=self.environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    def up(self, *arguments: str | Path) -> str:
        answer = self("up", "--port", str(self.port), *arguments)
        assert answer.returncode == 0, answer.stdout + answer.stderr + self.logs()
        return answer.stdout

    def status(self) -> dict[str, Any]:
        answer = self("status", "--json")
        found: dict[str, Any] = json.loads(answer.stdout)
        assert answer.returncode == (0 if found["complete"] else 3), answer.stderr
        return found

    def members(self) -> dict[str, dict[str, Any]]:
        return {one["role"]: one for one in self.status()["members"]}

    def logs(self) -> str:
        files = sorted((self.home / "stack").glob("*.log"))
        return "".join(f"\n== {file.name}\n{file.read_text()[-3000:]}" for file in files)

    def processes(self) -> list[psutil.Process]:
        """Give every process that has our home in its environment, however it was started."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("INGOT_HOME") == str(self.home)
            except (psutil.Error, OSError):
                continue
            if ours and process.pid != os.getpid():
                found.append(process)
        return found

    def post(self, path: str, body: object = None) -> Any:
        answer = self._client.post(path, json=body or {}).raise_for_status()
        return answer.json() if answer.content else None

    def delete(self, path: str) -> None:
        self._client.delete(path).raise_for_status()

    def put(self, path: str, body: object) -> None:
        self._client.put(path, json=body).raise_for_status()

    def runs(self) -> list[dict[str, Any]]:
        """Give the runs that are more than planned, oldest first."""
        found = self.post("/flow_runs/filter", {"sort": "START_TIME_ASC"})
        return [run for run in found if run["state_type"] != "SCHEDULED"]


def soon(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait for a condition and give its value."""
    ends_at = time.monotonic() + patience_s
    while time.monotonic() < ends_at:
        if found := condition():
            return found
        time.sleep(0.5)
    return pytest.fail(f"{what}: not within {patience_s:.0f} s")
