"""Which Prefect servers a command works with, refuses at once, or gives up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from prefect import __version__
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows import embedded_server, server_watch
from flows.embedded_server import ENVIRONMENT, start_prefect
from flows.prefect_server import MOST_RESTARTS, EmbeddedServer
from flows.server_watch import ServerWatch, require_prefect_api, without_secrets
from tasks.core.errors import EnvironmentUnfit

pytestmark = pytest.mark.flow

Page = tuple[int, str, str]
HEALTHY: Page = (200, "application/json", "true")
HTML: Page = (200, "text/html", "<!doctype html><title>Welcome</title>")
CREDENTIALS = "ingot:a-secret-word"


@contextmanager
def answering(health: Page, version: Page) -> Iterator[str]:
    """Answer as something that may or may not be a Prefect server; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, kind, text = version if self.path.endswith("/admin/version") else health
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        server.server_close()


def of_version(text: str) -> Page:
    return (200, "application/json", json.dumps(text))


def wait_until(claim: Callable[[], object], seconds: float = 240) -> bool:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        if claim():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("version", [__version__, "3.99.0"])
def test_server_of_this_or_a_later_version_is_taken(version: str) -> None:
    with answering(HEALTHY, of_version(version)) as api, temporary_settings({PREFECT_API_URL: api}):
        require_prefect_api()


def test_cloud_tells_no_version_and_is_taken() -> None:
    missing = (404, "application/json", "{}")
    with answering(HEALTHY, missing) as api, temporary_settings({PREFECT_API_URL: api}):
        require_prefect_api()


@pytest.mark.parametrize(
    ("health", "version", "words"),
    [
        (HTML, HTML, "is not a Prefect API"),
        ((404, "text/html", "nothing here"), HTML, "is not a Prefect API"),
        (HEALTHY, HTML, "is not a Prefect API"),
        (HEALTHY, of_version("2.20.9"), "too old or too new"),
        (HEALTHY, of_version("3.1.0"), "too old or too new"),
        (HEALTHY, of_version("4.0.0"), "too old or too new"),
        ((503, "text/plain", "later"), HTML, "is in trouble"),
        ((401, "application/json", "{}"), HTML, "refuses the credentials"),
    ],
)
def test_what_no_run_could_work_with_is_refused_at_once(
    health: Page, version: Page, words: str
) -> None:
    with answering(health, version) as api, temporary_settings({PREFECT_API_URL: api}):
        began = time.monotonic()
        with pytest.raises(EnvironmentUnfit, match=words) as caught:
            require_prefect_api()
    assert time.monotonic() - began < 60  # Prefect's own tries take 62 s and more
    assert "PREFECT_API_URL" in caught.value.next_step


def test_nobody_there_is_refused_and_no_password_is_shown() -> None:
    address = "http://ingot:a-secret-word@127.0.0.1:9/api"
    with (
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(EnvironmentUnfit, match="does not answer") as caught,
    ):
        require_prefect_api()
    assert "a-secret-word" not in str(caught.value)
    assert without_secrets(address) == "http://127.0.0.1:9/api"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Give a real server that asks for credentials."""
    folder = tmp_path_factory.mktemp("guarded")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment = {
        **kept,
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_API_AUTH_STRING": CREDENTIALS,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    server = EmbeddedServer(folder / "server.log", environment)
    server.start()
    yield server
    server.stop()


def test_real_server_refuses_wrong_credentials_and_takes_the_right_ones(
    guarded: EmbeddedServer,
) -> None:
    with temporary_settings({PREFECT_API_URL: guarded.address}):
        for wrong in ("ingot:wrong", None):
            with (
                temporary_settings({PREFECT_API_AUTH_STRING: wrong}),
                pytest.raises(EnvironmentUnfit, match="refuses the credentials"),
            ):
                require_prefect_api()
        with temporary_settings({PREFECT_API_AUTH_STRING: CREDENTIALS}):
            require_prefect_api()


def test_callers_wait_while_a_killed_server_comes_back(guarded: EmbeddedServer) -> None:
    first = guarded.pid
    assert first is not None
    psutil.Process(first).kill()
    psutil.wait_procs([psutil.Process(first)], timeout=10)
    with (
        temporary_settings({PREFECT_API_URL: guarded.address}),
        ServerWatch(guarded.address, guarded.revive),
    ):
        # One question, never refused: the command holds the socket.
        answer = httpx.get(f"{guarded.address}/health", timeout=240)
    assert answer.json() is True
    assert guarded.pid != first


def test_server_that_never_starts_is_refused_with_its_last_words(tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_API_DATABASE_CONNECTION_URL": "nonsense://nowhere"}
    server = EmbeddedServer(tmp_path / "server.log", environment)
    with pytest.raises(EnvironmentUnfit, match="did not start") as caught:
        server.start()
    assert str(tmp_path / "server.log") in caught.value.next_step
    assert server.pid is None


def test_server_touches_no_database_before_it_is_told_to_serve(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "flows.server_main", "port:0", "when-told"],
        env={
            **os.environ,
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "PYTHONPATH": str(Path.cwd()),
        },
        stdin=subprocess.DEVNULL,  # nobody is there to tell it
        check=False,
    )
    assert ended.returncode == 0
    assert not list(tmp_path.rglob("*.db"))


class Begun:
    """A server that only remembers what was asked of it."""

    address = "http://127.0.0.1:9/api"
    log_file = Path("server.log")

    def __init__(self, *_: object) -> None:
        self.asked: list[str] = []
        servers.append(self)

    def begin(self) -> None:
        self.asked.append("begin")

    def wait(self) -> None:
        self.asked.append("wait")

    def stop(self) -> None:
        self.asked.append("stop")


servers: list[Begun] = []


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INGOT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(embedded_server, "EmbeddedServer", Begun)
    servers.clear()


@pytest.mark.usefixtures("unconfigured")
def test_import_that_fails_ends_the_server_that_was_begun() -> None:
    with (
        temporary_settings({PREFECT_API_URL: None}),
        pytest.raises(ModuleNotFoundError),
        start_prefect("no_such_module"),
    ):
        pytest.fail("it began without its module")
    assert servers[0].asked == ["begin", "stop"]


@pytest.mark.usefixtures("unconfigured")
def test_server_of_a_profile_is_used_and_the_begun_one_never_serves() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(EnvironmentUnfit, match="does not answer"),
        start_prefect("prefect"),
    ):
        pytest.fail("nobody answers there")
    assert servers[0].asked[:2] == ["begin", "stop"]
    assert "wait" not in servers[0].asked


def test_server_that_dies_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_watch, "ASK_EVERY_S", 0.1)
    lives = iter([True] * MOST_RESTARTS)
    with (
        answering(HEALTHY, HTML) as api,
        temporary_settings({PREFECT_API_URL: api}),
        ServerWatch(api, lambda: next(lives, False), next_step="see the log") as watch,
    ):
        watch.require_server()
        assert wait_until(lambda: is_lost(watch))


def test_server_that_is_back_in_time_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_watch, "ASK_EVERY_S", 0.1)
    with (
        answering(HEALTHY, HTML) as api,
        temporary_settings({PREFECT_API_URL: api}),
        ServerWatch(api, patience_s=0.5) as watch,
    ):
        time.sleep(2)
        assert not is_lost(watch)
    with temporary_settings({PREFECT_API_URL: api}), ServerWatch(api, patience_s=0.5) as watch:
        assert wait_until(lambda: is_lost(watch))
        with pytest.raises(EnvironmentUnfit, match="is gone"):
            watch.require_server()


def is_lost(watch: ServerWatch) -> bool:
    try:
        watch.require_server()
    except EnvironmentUnfit:
        return True
    return False
