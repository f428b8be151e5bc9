"""Which server `ingot up` uses, and what it says of a port that is taken."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deployments.stack import server
from deployments.stack.places import Role, Stack
from deployments.stack.processes import end, of_stack, start
from deployments.stack.server import answers, choose_port, require_free, ui_of
from tasks.core.errors import EnvironmentUnfit, InputError
from tasks.core.settings import Settings
from tests.unit.test_stack_processes import SLEEP


class Healthy(BaseHTTPRequestHandler):
    """Answers the health page as Prefect does, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
        self.wfile.write(b"true" if self.path == "/api/health" else b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def somebodys_prefect() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield http.server_address[1]
        finally:
            http.shutdown()


@pytest.fixture
def stack(ingot_home: Path) -> Iterator[Stack]:
    found = Stack(Settings())
    yield found
    end(of_stack(found), grace_s=0)


def configured(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.setattr(server, "configured_api", lambda: address)


def run_server(stack: Stack, port: int) -> None:
    member = start(stack, Role.SERVER, SLEEP, os.environ, stack.folder.parent)
    stack.set_member(member.model_copy(update={"api": f"http://127.0.0.1:{port}/api"}))


def test_free_port_is_accepted() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    require_free(port)


def test_taken_port_names_its_holder_and_the_option() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(EnvironmentUnfit) as refusal:
            require_free(holder.getsockname()[1])
    assert "--port" in str(refusal.value)
    assert f"pid {os.getpid()}" in str(refusal.value)


def test_somebody_elses_prefect_is_not_used_by_chance() -> None:
    with somebodys_prefect() as port, pytest.raises(EnvironmentUnfit) as refusal:
        require_free(port)
    assert f"PREFECT_API_URL=http://127.0.0.1:{port}/api" in str(refusal.value)


def test_own_server_is_the_default(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(monkeypatch, None)
    assert choose_port(stack, None) == 4200
    assert choose_port(stack, 4301) == 4301


def test_configured_server_is_used_instead(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(monkeypatch, "https://prefect.example.com/api")
    assert choose_port(stack, None) is None


def test_configured_server_on_our_port_that_is_not_ours_is_used(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with somebodys_prefect() as port:
        configured(monkeypatch, f"http://localhost:{port}/api")
        assert choose_port(stack, port) is None


def test_address_of_our_own_server_in_the_environment_changes_nothing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_server(stack, 4777)
    configured(monkeypatch, "http://127.0.0.1:4777/api")
    assert choose_port(stack, None) == 4777


def test_running_server_keeps_its_port(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    run_server(stack, 4777)
    configured(monkeypatch, None)
    assert choose_port(stack, None) == 4777
    with pytest.raises(InputError, match="runs on port 4777"):
        choose_port(stack, 4778)


def test_silence_is_no_answer() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/api", timeout_s=0.2)
    with somebodys_prefect() as port:
        assert answers(f"http://127.0.0.1:{port}/api")


def test_address_of_the_ui_is_that_of_the_api() -> None:
    assert ui_of("https://prefect.example.com/api") == "https://prefect.example.com"
