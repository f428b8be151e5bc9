"""Where Ingot keeps its state and how wide it works, read from the environment.

Knows names of folders only; what is written in them belongs to the modules that write.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_home() -> Path:
    return Path(platformdirs.user_data_path("ingot", appauthor=False))


def _default_machine() -> Path:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # containers run as users that have a number only
        user = str(os.getuid())
    return Path(tempfile.gettempdir()) / f"ingot-{user}"


class Settings(BaseSettings):
    """Settings from `INGOT_*` environment variables.

    A fresh instance is read at each use, so that a test or a worker can set its own home.
    """

    model_config = SettingsConfigDict(
        env_prefix="INGOT_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    home: Path = Field(default_factory=_default_home, description="root of all state")
    workers: int = Field(default=3, ge=1, description="builds that may run side by side")
    machine: Path = Field(
        default_factory=_default_machine,
        description="what this machine's runs have reserved; one folder for all homes on it",
    )
    runner: Literal["thread", "dask", "ray"] = Field(
        default="thread", description="where tasks run: this process, a Dask or a Ray cluster"
    )
    cluster: str | None = Field(
        default=None,
        description="address of that cluster; none starts one on this machine for the run's time",
    )
    shared: str | None = Field(
        default=None,
        description="folder or URL (s3://bucket/prefix) of store and records for all machines",
    )

    @field_validator("home", "machine", mode="after")
    @classmethod
    def _make_absolute(cls, home: Path) -> Path:
        """Mean one folder from every working directory, also when no shell expanded a `~`."""
        return home.expanduser().absolute()

    @property
    def store(self) -> Path:
        """Immutable objects by digest."""
        return self.home / "store"

    @property
    def records(self) -> Path:
        """Cached step results: small JSON files."""
        return self.home / "records"

    @property
    def locks(self) -> Path:
        """Kernel locks, one file a key; released when their holder dies."""
        return self.home / "locks"

    @property
    def foundry(self) -> Path:
        """The production model index, which applications share."""
        return self.home / "foundry"

    @property
    def foundry_staging(self) -> Path:
        """Throw-away model indexes in which variants are examined."""
        return self.home / "foundry-staging"

    @property
    def runs(self) -> Path:
        """Evidence of each run."""
        return self.home / "runs"

    @property
    def made(self) -> Path:
        """What the last release of each name was made of."""
        return self.home / "made"

    @property
    def logs(self) -> Path:
        """Log files of child processes."""
        return self.home / "logs"

    @property
    def ledger(self) -> Path:
        """Who is champion, since when, by which evidence, who came before."""
        return self.home / "ledger"
