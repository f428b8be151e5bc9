"""The web service's client, against a real HTTP server that answers as Foundry Local does."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from tasks.core.errors import InputError, ResourceBusy, ToolFailed
from tasks.core.records import Message
from tasks.foundry.endpoint import Endpoint

HELLO = [Message(role="user", content="hello")]
REFUSAL = {"error": {"message": "Invalid request: a.cc:1 int fl::F(int, int) too many tokens"}}


CUT_OFF = b"HTTP/1.1 %d X\r\nContent-Length: 900\r\n\r\n{"


def hang_up_after(server: socket.socket, said: bytes) -> None:
    """Take one request, say this much, and close."""
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(said)


class Service(BaseHTTPRequestHandler):
    """Lists one model, answers it, refuses others with the status in their id, or with 400."""

    asked: ClassVar[list[dict[str, object]]] = []

    def do_GET(self) -> None:
        self._say(200, {"data": [{"id": "a:1"}]} if self._is_local("/v1/models") else {"data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        answer = {"choices": [{"message": {"content": "hi"}}]}
        name, _, status = body["model"].partition(":")
        self._say(200, answer) if name == "a" else self._say(int(status), REFUSAL)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _is_local(self, path: str) -> bool:
        return self.path == "/catalogs/local" + path

    def _say(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_models_are_those_of_the_local_catalog(url: str) -> None:
    assert Endpoint(url).model_ids() == ["a:1"]


def test_every_request_is_greedy_and_bounded(url: str) -> None:
    assert Endpoint(url).ask("a:1", HELLO, max_tokens=7) == "hi"
    assert Service.asked[-1]["temperature"] == 0
    assert Service.asked[-1]["max_tokens"] == 7


def test_refusal_carries_the_services_own_words(url: str) -> None:
    with pytest.raises(ToolFailed, match=r"status 400.*Invalid request: too many tokens"):
        Endpoint(url).ask("b:400", HELLO, max_tokens=7)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_trouble_of_the_service_itself_is_worth_another_try(url: str, status: int) -> None:
    with pytest.raises(ResourceBusy, match=rf"status {status}.*too many tokens"):
        Endpoint(url).ask(f"b:{status}", HELLO, max_tokens=7)


@pytest.mark.parametrize("said", [b"", b"nonsense\r\n\r\n", CUT_OFF % 200, CUT_OFF % 503])
def test_answer_that_breaks_off_is_worth_another_try(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hang_up_after, args=(server, said))
        thread.start()
        with pytest.raises(ResourceBusy):
            Endpoint(f"http://127.0.0.1:{server.getsockname()[1]}").model_ids()
        thread.join()


def test_proxy_of_the_environment_is_not_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert Endpoint(url).model_ids() == ["a:1"]


def test_service_that_is_gone_is_worth_another_try() -> None:
    with pytest.raises(ResourceBusy, match="gave no answer"):
        Endpoint("http://127.0.0.1:9").model_ids()


@pytest.mark.parametrize("url", ["http://192.0.2.1:80", "https://127.0.0.1", "file:///etc/passwd"])
def test_other_machines_and_schemes_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="not a web service on this machine"):
        Endpoint(url)
