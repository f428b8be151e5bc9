"""The Prefect face of admission."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from tasks.checkpoint import admit
from tasks.core.progress import step
from tasks.core.records import Checkpoint
from tasks.core.reservations import reserve_reading
from tasks.core.task import RETRYING, UNCACHED


@task(name="admit checkpoint", task_run_name="admit checkpoint", **RETRYING, **UNCACHED)
def admit_checkpoint(path: Path, name: str | None) -> Checkpoint:
    """Read the whole checkpoint once: complete, safe, finite; or refused.

    Tried again only when a file changed while it was read.
    """
    with step("admit checkpoint") as say:
        # Nothing inside waits for anybody, or the ticket would keep a timing from its turn.
        with reserve_reading(step=f"admit {name or path.name}", say=say):
            checkpoint = admit.admit_checkpoint(path, name=name, say=say)
        say(
            f"{checkpoint.family}, {checkpoint.parameters / 1e6:,.1f} M parameters, "
            f"{checkpoint.source_bytes / 1e6:,.1f} MB {checkpoint.weight_dtype}, "
            f"digest {checkpoint.digest[:12]}"
        )
    return checkpoint
