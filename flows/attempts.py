"""How often a run may be started again: a crash is resumed, a crash loop is not.

Automations put crashed runs back into the queue and count nothing (`deployments/automations.yaml`),
so the flow counts, before anything is spent.
"""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

MOST = 3


def gave_up(*, most: int = MOST) -> State[Any] | None:
    """Give the state to end with once a run was started more than `most` times, else None.

    A pause for approval is no start; a retry from the UI is one.
    """
    starts = flow_run.get_run_count()
    if starts <= most:
        return None
    return Failed(
        name="GaveUp",
        message=f"started {starts} times, at most {most} are made: each one before crashed or was "
        "started again by hand. Look at the logs for why it was killed, most often memory; then "
        "start a new run: what was finished is kept",
    )
