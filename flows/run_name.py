"""Naming a run once it is known what it is about: a schedule's request only says how to choose."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.artifacts import decoration


@decoration
def rename_run(name: str) -> None:
    """Give this flow run another name in the UI, in notifications and in what it emits."""
    run = flow_run.get_id()
    assert run is not None  # only a flow asks
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(run), name=name)
