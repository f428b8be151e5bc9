"""Asking a Prefect API whether it can be worked with, and noticing when it is gone for good.

Knows addresses and answers; who starts a server is `flows/prefect_server.py`'s business.
"""

from __future__ import annotations

import contextvars
import functools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import httpx
from packaging.version import InvalidVersion, Version

from tasks.core.errors import EnvironmentUnfit

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ASK_EVERY_S = 3.0
ANSWER_WITHIN_S = 15.0
# A server that is restarted or upgraded is back by then: 5 to 35 s were measured, under load 85.
PATIENCE_S = 120.0

UNSET = "or unset PREFECT_API_URL to use the embedded one"


def require_prefect_api() -> None:
    """Refuse a configured server that no run could be brought to its end with.

    Raises:
        EnvironmentUnfit: no answer, credentials refused, not a Prefect API, or another version.
    """
    from prefect import __version__
    from prefect.settings import PREFECT_API_URL

    address = without_secrets(PREFECT_API_URL.value())
    health = _ask("/health", address)
    if health.status_code != httpx.codes.OK or health.content.strip() != b"true":
        raise _no_prefect_api(health, address)
    answer = _ask("/admin/version", address)
    if answer.status_code == httpx.codes.NOT_FOUND:  # Prefect Cloud is of every version
        return
    ours, theirs = Version(__version__), _version_in(answer, address)
    if theirs.major != ours.major or theirs.minor < ours.minor:
        raise EnvironmentUnfit(
            f"the Prefect server at {address} is too old or too new for this Prefect",
            expected=f"{ours}, or a later one of the same major version",
            got=str(theirs),
            next_step=f"upgrade that server, {UNSET}",
        )


def _version_in(answer: httpx.Response, address: str) -> Version:
    try:
        return Version(str(answer.json()))
    except (ValueError, InvalidVersion):
        raise _no_prefect_api(answer, address) from None


def _ask(path: str, address: str) -> httpx.Response:
    """Ask once, with the certificates and credentials that Prefect would use."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    options = {"timeout": ANSWER_WITHIN_S}
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings=options) as client,
        ):
            return client.request("GET", path)  # type: ignore[arg-type]
    except httpx.HTTPStatusError as problem:
        return _or_refuse(problem.response, address)
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise EnvironmentUnfit(
            f"the Prefect API at {address} does not answer",
            got=f"{type(problem).__name__}: {problem}",
            next_step=f"start that server, {UNSET}",
        ) from problem


def _or_refuse(answer: httpx.Response, address: str) -> httpx.Response:
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise EnvironmentUnfit(
            f"the Prefect API at {address} refuses the credentials",
            got=f"{answer.status_code} {answer.reason_phrase}",
            next_step=f"set PREFECT_API_AUTH_STRING to user:password, {UNSET}",
        )
    if answer.status_code == httpx.codes.NOT_FOUND:
        return answer
    raise EnvironmentUnfit(
        f"the Prefect API at {address} is in trouble",
        got=f"{answer.status_code} {answer.reason_phrase}",
        next_step=f"look at that server's log, {UNSET}",
    )


def _no_prefect_api(answer: httpx.Response, address: str) -> EnvironmentUnfit:
    kind = answer.headers.get("content-type", "no content type").partition(";")[0]
    return EnvironmentUnfit(
        f"what answers at {address} is not a Prefect API",
        expected="`true` from its /health, and its version from /admin/version",
        got=f"{answer.status_code}, {kind}",
        next_step=f"set PREFECT_API_URL to an address that ends in /api, {UNSET}",
    )


def without_secrets(address: str | None) -> str:
    """Give an address without user, password and query."""
    if not address:
        return ""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


class ServerWatch:
    """Asks the server in use every few seconds, until it was silent for too long.

    Args:
        address: what to call it by.
        revive: called before each question, to start a server anew that died; False gives it up.
        next_step: what the user can do when it is lost.
        patience_s: silence after which it counts as lost; else `PATIENCE_S`.
    """

    def __init__(
        self,
        address: str,
        revive: Callable[[], bool] = lambda: True,
        *,
        next_step: str = "start it",
        patience_s: float | None = None,
    ) -> None:
        self._address = address
        self._revive = revive
        self._next_step = next_step
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._stopping = threading.Event()
        self._lost = threading.Event()
        # In a copy of the context, because Prefect keeps settings in there.
        work = functools.partial(contextvars.copy_context().run, self._watch)
        self._thread = threading.Thread(target=work, name="server watch", daemon=True)

    def __enter__(self) -> ServerWatch:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no more; a question that is under way is not waited for."""
        self._stopping.set()

    def require_server(self) -> None:
        """Pass while the server is there, or may still come back.

        Raises:
            EnvironmentUnfit: it was silent for too long.
        """
        if self._lost.is_set():
            raise EnvironmentUnfit(
                f"the Prefect server at {self._address} is gone",
                next_step=f"{self._next_step}, then run the same again: finished steps are kept",
            )

    def _watch(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        options = {"timeout": ANSWER_WITHIN_S}
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings=options) as client,
        ):
            self._ask_on(client)

    def _ask_on(self, client: SyncPrefectClient) -> None:
        silent_since: float | None = None
        while not self._stopping.wait(ASK_EVERY_S):
            hope = self._revive()
            # Any answer will do: a server in trouble may mend, and Prefect's clients try again.
            if hope and not isinstance(client.api_healthcheck(), httpx.TransportError):
                silent_since = None
                continue
            silent_since = silent_since or time.monotonic()
            if not hope or time.monotonic() - silent_since > self._patience_s:
                self._lost.set()
                return
