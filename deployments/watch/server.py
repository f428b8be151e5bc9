"""The Prefect server's events, posted with its own client and read back.

`emit_event` will not do: it hands the event to a thread and forgets what becomes of it, so that a
server that is down loses it without a word (3.8.8). Nor is the 204 enough: the server keeps events
in memory for up to 5 s before they are stored, and a kill in between loses them (measured, 3.8.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.server_watch import without_secrets
from tasks.core.errors import EnvironmentUnfit, TransientFault

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

TIMEOUT_S = 20.0
# Longer than the server keeps events (7 days unless set), and a clock that is wrong by a day.
_LOOK_BACK, _LOOK_AHEAD = timedelta(days=60), timedelta(days=1)
_PAGE = 50  # the most that the server lists at once


class ServerAway(TransientFault):
    """The server does not take events at the moment."""


class PrefectServer:
    """The server that PREFECT_API_URL or the active profile names.

    Raises:
        EnvironmentUnfit: none is named.
    """

    def __init__(self) -> None:
        from prefect.settings import PREFECT_API_URL

        address = PREFECT_API_URL.value()
        if not address:
            raise EnvironmentUnfit(
                "there is no Prefect server to tell",
                expected="PREFECT_API_URL, such as http://127.0.0.1:4200/api",
                next_step="start everything with `ingot up`, or a server of your own with "
                "`prefect server start`, and set PREFECT_API_URL",
            )
        self.address = without_secrets(address)

    def listed(self, ids: Sequence[UUID]) -> set[UUID]:
        """Give those of the events that the server has stored.

        Raises:
            ServerAway: it does not answer, or not as it should.
        """
        from prefect.events.filters import EventFilter, EventIDFilter, EventOccurredFilter

        now = datetime.now(UTC)
        # Its types are Prefect's own, which take the standard library's.
        occurred: Any = EventOccurredFilter.model_validate(
            {"since": now - _LOOK_BACK, "until": now + _LOOK_AHEAD}
        )
        found: set[UUID] = set()
        with self._client() as client:
            for start in range(0, len(ids), _PAGE):
                page = EventIDFilter(id=list(ids[start : start + _PAGE]))
                events = client.read_events(EventFilter(occurred=occurred, id=page), limit=_PAGE)
                found |= {event.id for event in events.events}
        return found

    def post(self, events: Sequence[dict[str, object]]) -> None:
        """Hand events over; the server drops those whose id it took in the last 5 minutes.

        Raises:
            ServerAway: it did not take them.
        """
        with self._client() as client:
            client.request("POST", "/events", json=list(events))

    @contextmanager
    def _client(self) -> Iterator[SyncPrefectClient]:
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        try:
            # Without the client's own retries, which keep silent for a minute: the postman's say
            # what is the matter, and go on for ever.
            with (
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
                get_client(httpx_settings={"timeout": TIMEOUT_S}, sync_client=True) as client,
            ):
                yield client
        except httpx.HTTPStatusError as problem:
            raise ServerAway(
                f"{self.address} answers {problem.response.status_code}",
                next_step=_ADVICE.get(problem.response.status_code, "look at the server's log"),
            ) from problem
        # A page that is no JSON comes from something that is no Prefect API.
        except (httpx.HTTPError, OSError, RuntimeError, ValueError) as problem:
            raise ServerAway(
                f"{self.address} does not answer",
                got=f"{type(problem).__name__}: {problem}",
                next_step="start it with `ingot up`",
            ) from problem


_ADVICE = {
    401: "set PREFECT_API_AUTH_STRING to the server's PREFECT_SERVER_API_AUTH_STRING",
    403: "set PREFECT_API_AUTH_STRING to the server's PREFECT_SERVER_API_AUTH_STRING",
    404: "PREFECT_API_URL ends with /api",
    405: "PREFECT_API_URL ends with /api",
}
