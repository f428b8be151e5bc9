"""The event that says that a name went back one champion, from the flow as from the command.

Applications and notifications listen to it. Knows no flow; imports Prefect when there is a server.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from uuid import uuid4

from flows.embedded_server import ENVIRONMENT
from flows.server_watch import ANSWER_WITHIN_S, without_secrets
from flows.stack_server import stack_api
from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion

EVENT = "champion.rolled_back"
# A server that is down refuses at once; a busy one took longer than 15 s (load 20 on two cores).
TAKES_WITHIN_S = 60.0


def resource_of(name: str) -> dict[str, str]:
    """Give what the event is about."""
    return {"prefect.resource.id": f"champion.{name}", "prefect.resource.name": name}


def payload_of(name: str, champion: Champion, *, instead_of: Champion) -> dict[str, str]:
    """Give what the event says."""
    return {
        "name": name,
        "champion": champion.model_id,
        "variant": champion.variant,
        "instead_of": instead_of.model_id,
    }


def tell_server(name: str, champion: Champion, *, instead_of: Champion) -> str:
    """Tell the configured server, or that of `ingot up`; without either nobody is told.

    Returns:
        Why the server may not know: the champion has changed all the same. Else nothing.
    """
    for setting, value in ENVIRONMENT.items():  # before Prefect is imported
        os.environ.setdefault(setting, value)
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value() or stack_api(Settings())
    if not address:
        return ""
    event: dict[str, object] = {
        "event": EVENT,
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "resource": resource_of(name),
        "payload": payload_of(name, champion, instead_of=instead_of),
    }
    return _post(address, event)


def _post(address: str, event: dict[str, object]) -> str:
    """Not by `emit_event`, which forgets what becomes of it (3.8.8)."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    settings = {PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}
    options = {"timeout": httpx.Timeout(TAKES_WITHIN_S, connect=ANSWER_WITHIN_S)}
    try:
        with (
            temporary_settings(settings),
            get_client(sync_client=True, httpx_settings=options) as client,
        ):
            client.request("POST", "/events", json=[event])
    # A page that is no JSON comes from something that is no Prefect API.
    except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError, ValueError) as problem:
        where = without_secrets(address)
        return f"{where} may not know of it ({EVENT}): {type(problem).__name__}: {problem}"
    return ""
