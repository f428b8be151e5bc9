"""Whatever dies, and whenever: nothing is lost, nothing half-made is seen, the run resumes."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from tests.faults import cuts, kills, services, starved  # noqa: F401  (they register themselves)
from tests.faults.workshop import SCENARIOS


@pytest.mark.faults
@pytest.mark.timeout(1800)  # of all that were begun before it
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost(name: str, played: dict[str, Future[None]]) -> None:
    played[name].result()
