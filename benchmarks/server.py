"""A Prefect server for the length of a section, as `ingot up` keeps one: for runs that find one.

Its database, and that of the servers that the measured commands start, is in the work folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.places import Work


def ingot_environment(work: Work, home: Path) -> dict[str, str]:
    """Give what an `ingot` command is measured in: a home and a Prefect of its own."""
    return {
        "INGOT_HOME": str(home),
        "INGOT_MACHINE": str(work.root / "machine"),
        "PREFECT_HOME": str(work.root / "prefect"),
        "PREFECT_API_URL": "",
    }


@contextmanager
def running_server(work: Work) -> Iterator[str]:
    """Have a server answer, and give the address of its API."""
    from flows.embedded_server import ENVIRONMENT
    from flows.prefect_server import EmbeddedServer

    work.logs.mkdir(parents=True, exist_ok=True)
    prefect_home = work.root / "prefect-server"
    environment = {**os.environ, **ENVIRONMENT, "PREFECT_HOME": str(prefect_home)}
    server = EmbeddedServer(work.logs / "prefect-server.log", environment)
    server.start()
    try:
        yield server.address
    finally:
        server.stop()
