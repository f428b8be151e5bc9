"""An HTTP client that asks a busy server again, as Prefect's own client does: SQLite was locked."""

from __future__ import annotations

import time
from typing import Any

import httpx

BUSY_S, PAUSE_S = 60.0, 1.0


class _AskAgain(httpx.HTTPTransport):
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        ends_at = time.monotonic() + BUSY_S
        while True:
            answer = super().handle_request(request)
            busy = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            if not busy or time.monotonic() > ends_at:
                return answer
            answer.close()
            time.sleep(PAUSE_S)


def patient_client(address: str, **options: Any) -> httpx.Client:
    """Give a client of a server on loopback; a server that is gone is not waited for."""
    # A transport of its own also leaves the environment's proxies aside.
    return httpx.Client(base_url=address, timeout=60, transport=_AskAgain(), **options)
