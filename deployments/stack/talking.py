"""Asking a stack's Prefect server, from the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deployments.stack.places import Plan


@contextmanager
def talking_to(plan: Plan) -> Iterator[None]:
    """Have Prefect in this process talk to the plan's server while the block runs.

    A configured server is found by the configuration, which has its credentials too.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    configured = PREFECT_API_URL.value()
    own = {} if plan.port is None and configured else {PREFECT_API_URL: plan.api}
    with temporary_settings(own):
        yield
