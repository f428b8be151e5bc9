"""A cluster on one machine as several: processes with homes of their own that share S3 only."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.s3_server import s3_server

REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE_S = 400.0
STARTS = 3  # of a Ray node
BUCKET = "ingot"
PROCESSES = 2  # of each Dask worker


@dataclass
class Rig:
    """A Prefect server and an S3 server, and what every process of the cluster is told."""

    folder: Path
    environment: dict[str, str]
    stack: ExitStack = field(repr=False)

    def start(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process that ends with the rig; its output goes to `<name>.log`."""
        log = self.stack.enter_context((self.folder / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**self.environment, **environment},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self.stack.callback(end_tree, process)
        return process

    def release(self, home: str, *arguments: str | Path, **environment: str) -> dict[str, Any]:
        """Release with the command, as a user does; gives its JSON."""
        process = self.releasing(home, *arguments, **environment)
        output, errors = process.communicate(timeout=590)
        assert process.returncode == 0, errors.decode()[-4000:]
        return dict(json.loads(output))

    def releasing(
        self, home: str, *arguments: str | Path, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start the command."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows.command",
                "release",
                *map(str, arguments),
                "--again",
                "--json",
            ],
            env={**self.environment, "INGOT_HOME": str(self.folder / home), **environment},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.stack.callback(end_tree, process)
        return process

    def logs(self) -> str:
        """Give everything that the rig's processes wrote."""
        return "\n".join(f.read_text(errors="replace") for f in self.folder.glob("*.log"))


@contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """Start a Prefect server and an S3 server on loopback."""
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_server(BUCKET))
        api = free_port()
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PREFECT_"))},
            **s3,
            "INGOT_SHARED": f"s3://{BUCKET}/shared",
            "INGOT_MACHINE": str(folder / "machine"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{api}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,tasks",
            "PYTHONPATH": str(REPOSITORY),
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # or Ray writes one into this user's home
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        made = Rig(folder, environment, stack)
        serve = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(api))
        made.start("server", *serve)
        wait_until(lambda: answers(f"http://127.0.0.1:{api}/api/health"))
        yield made


def start_dask(rig: Rig, homes: list[str], **environment: str) -> str:
    """Start a scheduler, and workers for each home as docs/cluster.md does; gives the address."""
    where = rig.folder / f"{homes[0]}.json"
    quiet = ("--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(where))
    rig.start(
        f"{homes[0]}-scheduler", "-m", "distributed.cli.dask_scheduler", "--port", "0", *quiet
    )
    wait_until(where.exists)
    size = ("--nworkers", str(PROCESSES), "--nthreads", "1")
    options = (*size, "--memory-limit", "0", *quiet)
    for home in homes:
        scratch = ("--local-directory", str(rig.folder / f"{home}-dask"))
        command = ("-m", "distributed.cli.dask_worker", *options, *scratch)
        rig.start(home, *command, INGOT_HOME=str(rig.folder / home), **environment)
    return str(json.loads(where.read_text())["address"])


def start_ray(rig: Rig, homes: list[str], **environment: str) -> str:
    """Start one node a home, the first of them the head; gives the address."""
    address = f"127.0.0.1:{free_port()}"
    # Ray's sockets lie below it, and a socket's path has at most 107 characters.
    scratch = rig.stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp"))
    head = ("--head", "--port", address.partition(":")[2], "--include-dashboard", "false")
    head = (*head, "--temp-dir", scratch)
    # Two nodes of one machine would take each other's ports from the default range.
    ports = ("--min-worker-port", "0", "--max-worker-port", "0", "--ray-client-server-port")
    size = ("--num-cpus", "2", "--object-store-memory", "100000000")
    common = ("--node-ip-address", "127.0.0.1", *size, "--block", "--disable-usage-stats")
    for before, home in enumerate(homes):
        place = head if before == 0 else ("--address", address)
        command = ("-m", "ray.scripts.scripts", "start", *place, *common, *ports, str(free_port()))
        told = {"INGOT_HOME": str(rig.folder / home), **environment}
        # Ray gives its own processes 30 s to start, whatever else the machine does.
        for _ in range(STARTS):
            if joins(rig, rig.start(home, *command, **told), address, before):
                break
        else:
            raise AssertionError(f"no Ray node of {home}: see its log in {rig.folder}")
    return address


def joins(rig: Rig, node: subprocess.Popen[bytes], address: str, before: int) -> bool:
    """Wait until a node is one more in its cluster, or has ended."""
    wait_until(lambda: node.poll() is not None or nodes_of(rig, address) > before)
    return node.poll() is None


def nodes_of(rig: Rig, address: str) -> int:
    """Count the living nodes of a Ray cluster, from outside of it."""
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); "
    code += "print(sum(node['Alive'] for node in ray.nodes()))"
    command = [sys.executable, "-c", code, address]
    asked = subprocess.run(command, env=rig.environment, capture_output=True, check=False)
    return int(asked.stdout) if asked.returncode == 0 else 0


def answers(url: str) -> bool:
    """Tell whether a server is up."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).is_success
    return False


def free_port() -> int:
    """Give a port that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(claim: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait for a claim to be true."""
    ends_at = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < ends_at, "waited in vain"
        time.sleep(0.1)


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for member in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()
