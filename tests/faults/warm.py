"""One home that was released into for real, and the copies that faults are planted in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from deployments.stack.members import ENVIRONMENT
from tests.faults.bench import Bench
from tests.faults.runs import REPOSITORY, Champion, wait_for

LEASES = ENVIRONMENT["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
QUESTIONS = 124  # with fewer INT4 is undecided


@contextmanager
def prefect_server(
    folder: Path, port: int | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a Prefect server of its own; gives its address and its process.

    With the port and the folder of one that was killed, it is that one started again.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        # As `ingot up` and the compose file set it: in memory, places in limits die with it.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
        "DO_NOT_TRACK": "1",
    }
    environment.pop("PREFECT_API_URL", None)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    api = f"http://127.0.0.1:{port}/api"
    try:
        wait_for(lambda: answers(api), "Prefect's server", 180)
        yield api, process
    finally:
        kill_tree(process)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in psutil.Process(process.pid).children(recursive=True):
            member.kill()
    process.kill()
    process.wait()


def answers(api: str) -> bool:
    """Tell whether a server answers."""
    try:
        return httpx.get(f"{api}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """Give a port on loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Warm:
    """A home in which everything was built and examined.

    Attributes:
        champion: what releases of it end with.
    """

    folder: Path
    api: str
    prefect_home: Path
    questions: Path
    champion: Champion

    def copy(self, folder: Path, *, api: str | None = "the shared one") -> Bench:
        """Give a home with the same records and objects, and no champion."""
        address = self.api if api == "the shared one" else api
        own = self.prefect_home if address == self.api else folder / "prefect"
        bench = Bench.at(folder, address, own, self.questions)
        for part in ("records", "store"):
            shutil.copytree(self.folder / part, bench.home / part)
        return bench


def release_once(folder: Path, api: str, prefect_home: Path) -> Warm:
    """Release the demo checkpoint into an empty home, or take the one that is there."""
    questions, kept = folder / "questions.jsonl", folder / "champion.json"
    folder.mkdir(parents=True, exist_ok=True)
    if kept.exists():
        fields = json.loads(kept.read_text())
        return Warm(folder / "home", api, prefect_home, questions, Champion(**fields))
    lines = (REPOSITORY / "demo" / "questions.jsonl").read_text().splitlines()
    questions.write_text("\n".join(lines[:QUESTIONS]) + "\n")
    bench = Bench.at(folder, api, prefect_home, questions)
    try:
        champion = Champion.of(bench.release().outcome())
    finally:
        bench.end_everything()
    kept.write_text(json.dumps(asdict(champion)))
    return Warm(bench.home, api, prefect_home, questions, champion)
