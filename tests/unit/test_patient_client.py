"""The client by which tests ask a Prefect server that may be busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest

from tests import patient_client as module
from tests.patient_client import patient_client


@pytest.fixture
def server() -> Iterator[Callable[[list[int]], str]]:
    """Give a server that answers each request with the next code, and the last one for ever."""
    codes: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    found = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=found.serve_forever, daemon=True).start()

    def answering(wanted: list[int]) -> str:
        codes[:] = wanted
        return f"http://127.0.0.1:{found.server_port}/api"

    yield answering
    found.shutdown()
    found.server_close()


def test_a_busy_server_is_asked_again(
    server: Callable[[list[int]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    assert patient_client(server([503, 503, 204])).delete("/one").status_code == 204


def test_a_server_that_stays_busy_is_given_up(
    server: Callable[[list[int]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.setattr(module, "BUSY_S", 0.05)
    assert patient_client(server([503])).delete("/one").status_code == 503


def test_any_other_answer_is_given_at_once(server: Callable[[list[int]], str]) -> None:
    assert patient_client(server([500, 204])).delete("/one").status_code == 500


def test_a_server_that_is_gone_is_not_waited_for() -> None:
    with pytest.raises(httpx.ConnectError):
        patient_client("http://127.0.0.1:9/api").delete("/one")
