"""A release in a process of its own, with the fakes, for tests that kill it: RUN_ID."""

from __future__ import annotations

import sys
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from flows.release import release
from tests.release_workshop import opened_workshop

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        opened_workshop(patch)
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(UUID(sys.argv[1]))
        run_flow(release, flow_run=flow_run)
