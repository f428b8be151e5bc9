"""A home of its own, and releases in it that are started, stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.faults import look
from tests.faults.points import FOLDER, Meeting, Point
from tests.faults.runs import REPOSITORY, Champion, Run

SHIM = Path(__file__).resolve().parent / "shim"
ORDER = ("--name", "demo", "-p", "int4", "--examination", "smoke", "--again", "--json")
COMMAND = "deployments.command"


@dataclass
class Bench:
    """One home under test.

    Attributes:
        folder: everything of this home, Prefect's and the shim's files too.
        checkpoint: what is released; a folder of its own when a fault changes it.
        environment: of every process.
        problems: sentences of what did not hold, with the fault after which.
    """

    folder: Path
    checkpoint: Path
    questions: Path
    environment: dict[str, str]
    began_at: float = field(default_factory=time.time)
    problems: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def at(cls, folder: Path, api: str | None, prefect_home: Path, questions: Path) -> Bench:
        """Make an empty home."""
        for part in ("home", "faults", "machine", "scratch"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "INGOT_HOME": str(folder / "home"),
            "INGOT_MACHINE": str(folder / "machine"),
            FOLDER: str(folder / "faults"),
            "PREFECT_HOME": str(prefect_home),
            "PYTHONPATH": os.pathsep.join([str(SHIM), str(REPOSITORY)]),
            "TMPDIR": str(folder / "scratch"),
            "COLUMNS": "200",
        }
        environment.pop("PREFECT_API_URL", None)
        if api is not None:
            environment["PREFECT_API_URL"] = api
        return cls(folder, REPOSITORY / "demo" / "checkpoint", questions, environment)

    @property
    def home(self) -> Path:
        """INGOT_HOME."""
        return self.folder / "home"

    @property
    def meeting(self) -> Meeting:
        """Where the shim and this harness meet."""
        return Meeting(self.folder / "faults")

    def release(self, *points: Point) -> Run:
        """Start the release, always with the same command."""
        self.meeting.plant(list(points))
        order = [str(self.checkpoint), "--questions", str(self.questions), *ORDER]
        return self.start(sys.executable, "-m", COMMAND, "release", *order)

    def start(self, *command: str) -> Run:
        """Start any process with this home's environment."""
        run = Run(list(command), self.environment, self.meeting)
        self.runs.append(run)
        return run

    def look(self, after: str, expected: frozenset[int] = frozenset()) -> None:
        """Check what must hold after a kill, and remember what does not."""
        found = [*look.no_process_of(self.home, expected), *look.whatever_died(self.home)]
        self.problems += [f"after {after}: {problem}" for problem in found]

    def processes_left(self) -> list[str]:
        """Wait for the processes of this home to end; those that do not are a problem."""
        return look.no_process_of(self.home)

    def require_champion(self, run: Run, expected: Champion, after: str) -> None:
        """Check that a release ends with the right champion, and leaves nothing behind."""
        assert Champion.of(run.outcome()) == expected
        self.look(after)
        found = [
            *look.nothing_left_over(self.home),
            *look.nothing_visible_before_it_was_synced(self.meeting),
        ]
        self.problems += [f"after {after}, resumed: {problem}" for problem in found]

    def require_builds(self, most: dict[str, int], most_in_all: int | None = None) -> None:
        """Check that no variant was built more often than allowed; one not named, never."""
        begun = look.builds_begun(self.meeting)
        self.problems += [
            f"{precision} was built {count} times, {most.get(precision, 0)} are allowed"
            for precision, count in begun.items()
            if count > most.get(precision, 0)
        ]
        if most_in_all is not None and sum(begun.values()) > most_in_all:
            self.problems.append(f"{begun} were built, {most_in_all} in all are allowed")

    def finished_at(self, step: str, since: float) -> float | None:
        """Give when a step first finished, or was found in the cache, after a moment."""
        ends = ("finished", "cached")
        times = [
            float(str(entry["at"]))
            for entry in self.meeting.entries()
            if entry["kind"] == "step" and entry["step"] == step and entry["state"] in ends
        ]
        return next((at for at in times if at >= since), None)

    def forget(self, task: str, containing: str = "") -> None:
        """Remove the record of a step, and the objects that only it stood for."""
        doomed = [
            record
            for record in (self.home / "records").glob(f"{task}-*")
            if containing in record.read_text().replace("\\", "")
        ]
        assert doomed, f"no record of {task} in the warm home"
        for record in doomed:
            record.unlink()
        kept = "".join(record.read_text() for record in (self.home / "records").iterdir())
        for entry in (self.home / "store" / "objects").iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry)

    def forget_build(self, precision: str) -> None:
        """Remove a build: its record, and its object, which other records are about."""
        mark = f'"precision": "{precision}"'
        records = [p.read_text().replace("\\", "") for p in self._builds()]
        text = next(text for text in records if mark in text)
        digest = text.partition('"digest": "')[2][:64]
        self.forget("build-variant", mark)
        shutil.rmtree(self.home / "store" / "objects" / digest)

    def end_everything(self) -> None:
        """Kill whatever of this home still runs."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("INGOT_HOME") == str(self.home):
                    process.kill()
            except psutil.Error:
                continue

    def _builds(self) -> list[Path]:
        return sorted((self.home / "records").glob("build-variant-*"))
