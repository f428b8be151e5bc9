"""A release that a worker runs for real and that is killed each time, as by the kernel."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.attempts import gave_up


@flow(name="release", persist_result=False)
def crash(starts: str) -> State[Any] | None:
    """Write a line, then die; `gave_up` stands first, as in Ingot's flows."""
    if spent := gave_up():
        return spent
    with Path(starts).open("a") as stream:
        stream.write("started\n")
    os.kill(os.getpid(), signal.SIGKILL)
    return None
