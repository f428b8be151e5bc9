"""`ingot watch` as a process of its own, and what the server then knows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

DEADLINE_S = 180.0
COMMAND = "import typer; from deployments.watch.command import watch; typer.run(watch)"
QUICK = ("--quiet", "1", "--rescan", "1")


class Watcher:
    """A running watcher.

    Args:
        home: its INGOT_HOME.
        api: the server's address; None for none.
        before: Python that runs in the process first, to plant a fault.
    """

    def __init__(
        self, home: Path, *arguments: object, api: str | None, before: str = "", **settings: str
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / f"watch-{time.monotonic_ns()}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        environment |= {
            "INGOT_HOME": str(home),
            "INGOT_MACHINE": str(home / "machine"),
            "PREFECT_HOME": str(home / "prefect"),
            "DO_NOT_TRACK": "1",
            **({"PREFECT_API_URL": api} if api else {}),
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{before}\n{COMMAND}", *map(str, arguments)],
                cwd=Path(__file__).parents[1],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_problem: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def lines(self) -> list[str]:
        """What it has said so far."""
        return self.log.read_text().splitlines()

    def said(self, kind: str) -> list[str]:
        """Give the lines of one kind; each begins with date and time."""
        return [line for line in self.lines if line.split(" ")[2:3] == [kind]]

    def wait_for(self, kind: str, count: int = 1) -> list[str]:
        """Wait until it has said so many lines of a kind."""
        wait_until(lambda: len(self.said(kind)) >= count, lambda: "\n".join(self.lines))
        return self.said(kind)

    def end(self, kind: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Tell it to stop; gives its exit code and the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(kind)
        return self.wait(), time.monotonic() - began

    def wait(self) -> int:
        """Wait for its end; gives its exit code, negative when it was killed."""
        return self.process.wait(DEADLINE_S)


def wait_until(is_so: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Wait for a condition, for as long as a loaded machine may take."""
    ends_at = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < ends_at, otherwise()
        time.sleep(0.1)


def events(api: str, *, header: str | None = None, **named: str) -> list[dict[str, Any]]:
    """Read the watcher's events back from the server, those whose payload says so."""
    now = datetime.now(UTC)
    wanted = {
        "event": {"prefix": ["checkpoint."]},
        "occurred": {
            "since": (now - timedelta(days=1)).isoformat(),
            "until": (now + timedelta(days=1)).isoformat(),
        },
    }
    body = json.dumps({"filter": wanted, "limit": 50}).encode()
    headers = {"content-type": "application/json", **({"Authorization": header} if header else {})}
    request = urllib.request.Request(f"{api}/events/filter", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)["events"]
    return [one for one in found if named.items() <= one["payload"].items()]
