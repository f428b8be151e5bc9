"""An embedded Prefect server that comes back when it dies, and never outlives its command.

The command holds the listening socket: while the server is down, callers wait in the kernel's
queue instead of being refused, so a run notices nothing but the seconds of the new start. Knows
nothing of flows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from tasks.core.errors import EnvironmentUnfit
from tasks.core.offspring import end_offspring, marked, new_mark

log = logging.getLogger(__name__)

STARTS_WITHIN_S = 240.0  # 5 to 18 s on a quiet machine, 85 s on a very busy one (3.8.8)
STOPS_WITHIN_S = 5.0
MOST_RESTARTS = 5
MOST_LOG_BYTES = 16 * 1024 * 1024
POLL_S = 0.2

# As Prefect sets them for its own temporary server (3.8.8).
_SERVER_ENVIRONMENT = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class EmbeddedServer:
    """A Prefect server in a process of its own, on this machine's loopback only.

    Args:
        log_file: of this server alone; gets what it prints, which is errors only. Without any, it
            is removed at the end, because a refused request shall leave nothing behind.
        environment: what it inherits.

    Attributes:
        address: of its API.
        log_file: as given.
    """

    def __init__(self, log_file: Path, environment: dict[str, str]) -> None:
        self.log_file = log_file
        self._environment = {**environment, **_SERVER_ENVIRONMENT}
        self._mark = new_mark()
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = 0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._port: int = self._socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            EnvironmentUnfit: it ended, or did not answer in time.
        """
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start its process, which imports, and touches no database before `wait`."""
        with self._mutex:
            self._process = self._spawn()

    def wait(self) -> None:
        """Let it serve, and wait until it answers.

        Raises:
            EnvironmentUnfit: it ended, or did not answer in time.
        """
        deadline, process = time.monotonic() + STARTS_WITHIN_S, self._process
        _let_serve(process)
        while not self._answers():
            ended = process is None or process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                raise EnvironmentUnfit(
                    "the embedded Prefect server did not start",
                    expected=f"an answer within {STARTS_WITHIN_S:.0f} s",
                    got=self._last_words(),
                    next_step=f"see {self.log_file}, or set PREFECT_API_URL to a running server",
                )
            time.sleep(POLL_S)

    def revive(self) -> bool:
        """Start it again when it has died, without waiting for it; False when that is no use."""
        with self._mutex:
            if self._process is None or self._process.poll() is None:
                return True
            if self._restarts == MOST_RESTARTS:
                return False
            self._restarts += 1
            log.warning("the embedded Prefect server ended; starting it again")
            self._process = self._spawn()
            _let_serve(self._process)
            return True

    def stop(self) -> None:
        """End it, gently first."""
        with self._mutex:
            process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            end_offspring(self._mark, process.pid)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._socket.close()
        with contextlib.suppress(OSError):
            if not self.log_file.stat().st_size:
                self.log_file.unlink()

    @property
    def pid(self) -> int | None:
        """Its process, while it is meant to run."""
        return self._process.pid if self._process else None

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > MOST_LOG_BYTES:
            self.log_file.unlink()
        # Windows hands no sockets on; there callers are refused until the server is back.
        handed_on = () if os.name == "nt" else (self._socket.fileno(),)
        if not handed_on:
            self._socket.close()
        endpoint = f"fd:{handed_on[0]}" if handed_on else f"port:{self._port}"
        with self.log_file.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.server_main", endpoint, "when-told"],
                stdin=subprocess.PIPE,  # its end tells the server that the command is gone
                stdout=output,
                stderr=output,
                env=marked(self._environment, self._mark),
                pass_fds=handed_on,
                start_new_session=True,  # Ctrl-C is the command's, which has a last word to say
            )

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.address}/health", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _last_words(self) -> str:
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "no answer"
        return lines[-1] if lines else "no answer"


def _let_serve(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.stdin is not None:
        with contextlib.suppress(OSError):  # it ended; whoever waits for it sees that
            process.stdin.write(b"\n")
            process.stdin.flush()
