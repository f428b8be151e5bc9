"""One process that was started in a home, and the champion that a release has to end with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.settings import Settings
from tasks.foundry import ledger
from tasks.report.load import load_run
from tests.faults.points import Meeting

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 900.0  # for a machine that does much else


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Wait until something is true, and give it."""
    ends_at = time.monotonic() + deadline_s
    while time.monotonic() < ends_at:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {deadline_s:.0f} s for {what}")


@dataclass(frozen=True)
class Champion:
    """What every release of these inputs must end with, whatever happened on the way."""

    model_id: str
    variant: str
    answer: str

    @classmethod
    def of(cls, outcome: dict[str, Any]) -> Champion:
        """Read it from what the command printed."""
        registration = outcome["registration"]
        assert registration["right"] is True
        return cls(registration["model_id"], registration["variant"], registration["answer"])

    @classmethod
    def in_home(cls, home: Path) -> Champion | None:
        """Read it from the ledger and its run; None while it is not there, or not written."""
        settings = Settings(home=home)
        champion = ledger.champion_of(settings, "demo")
        if champion is None or not (folder := settings.runs / champion.run_id).is_dir():
            return None
        registration = load_run(folder).release.registration
        assert registration is not None
        return cls(champion.model_id, champion.variant, registration.answer)


class Run:
    """One process that was started, and its output."""

    def __init__(self, command: list[str], environment: dict[str, str], meeting: Meeting) -> None:
        self.command = command
        self._meeting = meeting
        self._output = meeting.folder / f"output-{time.time_ns()}"
        self.started_at = time.time()
        with self._output.open("wb") as out, self._output.with_suffix(".err").open("wb") as err:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def reach(self, number: int = 0, deadline_s: float = DEADLINE_S) -> int:
        """Wait until a process stands at a point that was planted, and give its id."""
        file = self._meeting.reached_file(number)
        point = self._meeting.points()[number].name
        wait_for(lambda: _written(file) or self._has_ended(), point, deadline_s)
        assert _written(file), f"ended before it came to {point!r}: {self.output()}"
        return int(file.read_text())

    def kill(self, pid: int | None = None) -> None:
        """Kill a process of this run as the out-of-memory killer would: the flow's by default."""
        os.kill(self.pid if pid is None else pid, signal.SIGKILL)
        if pid in (None, self.pid):
            self.process.wait()

    def go_on(self, pid: int) -> None:
        """Let a process that stands at a point go on."""
        os.kill(pid, signal.SIGCONT)

    def end(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for the end and give the exit code."""
        return self.process.wait(deadline_s)

    def outcome(self) -> dict[str, Any]:
        """Give what a release that ended well printed."""
        code = self.end()
        assert code == 0, f"ended with {code}: {self.output()}"
        document: dict[str, Any] = json.loads(self._output.read_text())
        return document

    def output(self) -> str:
        """Give the end of what was printed."""
        err = self._output.with_suffix(".err").read_text(errors="replace")
        return f"{self._output.read_text(errors='replace')[-2000:]}\n{err[-4000:]}"

    def _has_ended(self) -> bool:
        return self.process.poll() is not None


def _written(file: Path) -> bool:
    return file.exists() and file.read_text().endswith("\n")
