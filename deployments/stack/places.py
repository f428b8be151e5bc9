"""What of this stack should run and what does: small JSON files in `INGOT_HOME/stack`.

Knows files only; whether a process lives is asked in `processes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from tasks.core.errors import ResourceBusy
from tasks.core.files import write_text_atomically
from tasks.core.records import Record
from tasks.core.settings import Settings

READABLE = TypeVar("READABLE", bound=Record)

# Folders of INGOT_HOME: where checkpoints land, and where those of buckets are brought to.
LANDING, LANDED = "landing", "landed"


class Role(StrEnum):
    """The processes of a stack, in the order in which they start."""

    SERVER = "server"
    WORKER = "worker"
    WATCHER = "watcher"
    KEEPER = "keeper"


class Plan(Record):
    """What should run, as the last `ingot up` was told.

    Attributes:
        api: address of Prefect's API, without credentials.
        port: of our own server on loopback; None where a configured server is used.
        pool: work pool that the worker polls.
        folders: what is watched, folders or bucket URLs.
        limit: runs at the same time.
        deployed: digest of what was deployed last.
        deployments: names of what was deployed last.
    """

    api: str
    port: int | None
    pool: str
    folders: list[str]
    limit: int
    deployed: str = ""
    deployments: list[str] = Field(default_factory=list)

    @property
    def roles(self) -> list[Role]:
        """Give the processes that this plan needs."""
        return [role for role in Role if role is not Role.SERVER or self.port is not None]


class Member(Record):
    """One process that was started.

    Attributes:
        token: in the process's environment, so that a reused pid is never taken for it.
        created_s: the process's own start, seconds of the epoch, where no environment is readable.
        started: for the reader.
        started_s: the same on the monotonic clock, which all processes of a machine share; it
            begins anew when the machine does.
        restarts: how often it was found dead and started again.
        quick_deaths: how many of the last starts did not live for a minute, in a row.
        api: address of Prefect's API; of the server only, for who looks for it.
    """

    role: Role
    pid: int
    token: str
    created_s: float
    command: list[str]
    started: datetime
    started_s: float = 0.0
    restarts: int = 0
    quick_deaths: int = 0
    api: str | None = None


class Stack:
    """The folder of one stack; one for each `INGOT_HOME`."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.home / "stack"

    def log(self, role: Role) -> Path:
        """Give the log file of a process."""
        return self.folder / f"{role}.log"

    def plan(self) -> Plan | None:
        """Give what should run; None when nothing should."""
        return _read(self.folder / "plan.json", Plan)

    def set_plan(self, plan: Plan | None) -> None:
        """Say what should run from now on."""
        file = self.folder / "plan.json"
        if plan is None:
            file.unlink(missing_ok=True)
        else:
            write_text_atomically(file, plan.model_dump_json(indent=1))

    def member(self, role: Role) -> Member | None:
        """Give what was started last in this role."""
        return _read(self.folder / f"{role}.json", Member)

    def set_member(self, member: Member) -> None:
        """Write down what was started."""
        file = self.folder / f"{member.role}.json"
        write_text_atomically(file, member.model_dump_json(indent=1, exclude_none=True))

    def forget_member(self, role: Role) -> None:
        """Forget what was started."""
        (self.folder / f"{role}.json").unlink(missing_ok=True)

    @contextmanager
    def locked(self, timeout_s: float = 300) -> Iterator[None]:
        """Be the only one that starts or stops; the kernel frees the lock of who dies.

        Raises:
            ResourceBusy: another command is still at it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / "lock", timeout=timeout_s):
                yield
        except Timeout as problem:
            raise ResourceBusy(
                "another `ingot up` or `ingot down` is at work here",
                next_step="wait until it has ended, then run the command again",
            ) from problem


def _read(file: Path, kind: type[READABLE]) -> READABLE | None:
    try:
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):  # of another version: as if it were not there
        return None
