"""What the watcher tells a real Prefect server: once, and nothing lost when one of them dies."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.watch.announcement import landing_of
from deployments.watch.server import PrefectServer, ServerAway
from deployments.watch.sighting import Landed, Sighting
from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.errors import EnvironmentUnfit
from tests.s3_server import s3_named, s3_server
from tests.sample_checkpoint import write_sample_checkpoint, write_sharded_checkpoint
from tests.watching import QUICK, Watcher, events, wait_until

pytestmark = pytest.mark.flow
DOCUMENT = Path(__file__).parents[2] / "docs" / "landing.md"


@pytest.fixture
def api(prefect_server: None) -> str:
    return str(PREFECT_API_URL.value())


@pytest.fixture
def name() -> str:
    """Give a name of its own to what a test lands: the server is the same for all."""
    return f"model-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    folder = tmp_path / "landing"
    folder.mkdir()
    return folder


# ------------------------------------------------------------------ once


def test_slow_copy_is_one_event_and_the_same_copy_again_is_none(
    api: str, tmp_path: Path, landing: Path, name: str
) -> None:
    source = write_sharded_checkpoint(tmp_path / "source")
    home = tmp_path / "home"

    def copy_slowly() -> None:
        (landing / name).mkdir(exist_ok=True)
        for file in sorted(source.iterdir()):
            with file.open("rb") as whole, (landing / name / file.name).open("wb") as part:
                while some := whole.read(max(1, file.stat().st_size // 2)):
                    part.write(some)
                    part.flush()
                    time.sleep(0.2)

    with Watcher(home, landing, *QUICK, api=api) as watcher:
        watcher.wait_for("watching")
        with Watcher(home, tmp_path, api=api) as second:
            assert second.wait() == 4
            assert "another `ingot watch`" in second.log.read_text()
        copy_slowly()
        watcher.wait_for("announced")
        (event,) = events(api, name=name)
        digest = admit_checkpoint(source).digest
        assert event["event"] == "checkpoint.landed"
        assert event["payload"] == {"path": str(landing / name), "digest": digest, "name": name}
        assert event["resource"]["prefect.resource.id"] == f"checkpoint.{digest[:16]}"
        assert event["resource"]["prefect.resource.name"] == name
        copy_slowly()
        watcher.wait_for("known")
        code, took_s = watcher.end()
    assert code == 0
    assert took_s < 20  # 2 s on a quiet machine
    assert len(events(api, name=name)) == 1


def test_watcher_killed_before_it_wrote_the_event_down_does_not_double_it(
    api: str, tmp_path: Path, landing: Path, name: str
) -> None:
    write_sample_checkpoint(landing / name)
    fault = (
        "import os, signal\n"
        "from deployments.watch.journal import Journal\n"
        "Journal.save = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    home = tmp_path / "home"
    with Watcher(home, landing, *QUICK, api=api, before=fault) as watcher:
        assert watcher.wait() == -signal.SIGKILL
    assert not (home / "watch" / "journal.json").exists()
    assert len(events(api, name=name)) == 1
    # Past what the server remembers of ids: what it has stored is asked.
    with Watcher(home, landing, *QUICK, "--once", api=api) as watcher:
        assert watcher.wait() == 0, watcher.log.read_text()
        assert watcher.said("announced")
    assert (home / "watch" / "journal.json").exists()
    assert len(events(api, name=name)) == 1
    with Watcher(home, landing, *QUICK, "--once", "--json", api=api) as watcher:
        assert watcher.wait() == 0
        kinds = [json.loads(line)["event"] for line in watcher.lines]
    assert kinds == ["watching", "stopped"]


def test_once_reports_what_is_broken_and_leaves_what_is_incomplete(
    api: str, tmp_path: Path, landing: Path, name: str
) -> None:
    (write_sample_checkpoint(landing / f"{name}-broken") / "code.py").write_text("x")
    (write_sample_checkpoint(landing / f"{name}-half") / "tokenizer.json").unlink()
    with Watcher(tmp_path / "home", landing, *QUICK, "--once", api=api) as watcher:
        assert watcher.wait() == 0, watcher.log.read_text()
        assert "tokenizer.json" in watcher.said("waiting")[0]
        assert f"{name}-half" in watcher.said("later")[0]
    (event,) = events(api, name=f"{name}-broken")
    assert event["event"] == "checkpoint.broken"
    assert event["payload"]["path"] == str(landing / f"{name}-broken")
    assert "its own code" in event["payload"]["reason"]
    assert not events(api, name=f"{name}-half")


def test_server_drops_a_second_event_of_the_same_id(api: str, name: str) -> None:
    """The real thing that `FakeServer` in tests/unit stands for."""
    server = PrefectServer()
    landed = Landed(Path("/landing/a"), name, uuid.uuid4().hex * 2, 1, has_questions=True)
    news = landing_of(landed, Sighting("/landing/a", "a", "s"))
    assert server.listed([news.id]) == set()
    server.post([news.as_json()])
    server.post([news.as_json()])
    wait_until(lambda: server.listed([news.id]) == {news.id}, lambda: "never stored")
    assert len(events(api, name=name)) == 1


# ------------------------------------------------------------------ a server that comes and goes


def test_watcher_waits_for_a_server_with_a_password(
    tmp_path: Path, landing: Path, name: str
) -> None:
    write_sample_checkpoint(landing / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api, password = f"http://127.0.0.1:{port}/api", "admin:pass"
    home = tmp_path / "home"
    with Watcher(home, landing, *QUICK, api=api, PREFECT_API_AUTH_STRING=password) as watcher:
        watcher.wait_for("server")
        watcher.wait_for("landed")
        environment = {
            **os.environ,
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "PREFECT_SERVER_API_AUTH_STRING": password,
            "PREFECT_API_URL": api,
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        with (tmp_path / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            watcher.wait_for("announced")
            header = f"Basic {base64.b64encode(password.encode()).decode()}"
            assert len(events(api, header=header, name=name)) == 1
            code, _ = watcher.end(signal.SIGINT)
            with Watcher(home, landing, *QUICK, api=api, PREFECT_API_AUTH_STRING="no:no") as other:
                assert "PREFECT_API_AUTH_STRING" in other.wait_for("server")[0]
        finally:
            server.terminate()
            server.wait(60)
    assert code == 130
    assert len(watcher.said("server")) == 2, watcher.lines


def test_once_without_its_server_ends_as_the_environments_fault(
    tmp_path: Path, landing: Path, name: str
) -> None:
    write_sample_checkpoint(landing / name)
    patience = "import deployments.watch.run as run; run.PATIENCE_S = 3.0"
    api = "http://127.0.0.1:9/api"
    with Watcher(tmp_path, landing, *QUICK, "--once", api=api, before=patience) as watcher:
        assert watcher.wait() == 4
        assert "ingot up" in watcher.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["nowhere"], 2, "is not a folder"),
        (["nope://x"], 2, "nope"),
        (["--name", "two words", "."], 2, "two words"),
        (["."], 4, "ingot up"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    tmp_path: Path, arguments: list[str], code: int, word: str
) -> None:
    with Watcher(tmp_path / "home", *arguments, api=None) as watcher:
        assert watcher.wait() == code
        assert word in watcher.log.read_text()
        assert "Traceback" not in watcher.log.read_text()


# ------------------------------------------------------------------ everything else


def test_example_in_the_documentation_is_what_the_server_takes(
    api: str, tmp_path: Path, name: str
) -> None:
    """The block as it is printed, but for the path, the name and the digest's command."""
    folder = write_sample_checkpoint(tmp_path / name)
    (example,) = re.findall(r"```sh\n(path=.+?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert "path=/srv/models/my-model\n" in example
    script = example.replace("/srv/models/my-model", str(folder)).replace("=my-model", f"={name}")
    assert shutil.which("curl"), "the example needs curl"
    answer = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=DOCUMENT.parents[1],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PREFECT_API_URL": api,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.split()[-1] == "204", answer.stderr
    wait_until(lambda: len(events(api, name=name)) == 1, lambda: "never stored")
    (event,) = events(api, name=name)
    digest = admit_checkpoint(folder).digest
    assert event["payload"] == {"path": str(folder), "digest": digest, "name": name}
    assert event["resource"]["prefect.resource.id"] == f"checkpoint.{digest[:16]}"


# ------------------------------------------------------------------ what the client makes of it


class Answers(BaseHTTPRequestHandler):
    status, body = 401, b'{"exception_message":"Unauthorized"}'

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(type(self).status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def do_GET(self) -> None:  # the client asks for a token first
        self.do_POST()

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://user:secret@127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (401, b"{}", "PREFECT_API_AUTH_STRING"),
        (404, b"{}", "ends with /api"),
        (500, b"{}", "log"),
        (200, b"<html>", "does not answer"),
    ],
)
def test_wrong_answers_are_named_without_secrets(
    address: str, status: int, body: bytes, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL

    monkeypatch.setattr(Answers, "status", status)
    monkeypatch.setattr(Answers, "body", body)
    with temporary_settings({PREFECT_API_URL: address}):
        server = PrefectServer()
        with pytest.raises(ServerAway, match=word) as caught:
            server.listed([uuid.uuid4()])
    assert "secret" not in server.address + str(caught.value)


def test_no_server_is_an_error_that_names_ingot_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(EnvironmentUnfit, match="ingot up"),
    ):
        PrefectServer()


def test_bucket_is_watched_with_the_usual_environment(api: str, tmp_path: Path, name: str) -> None:
    import boto3

    source = write_sample_checkpoint(tmp_path / "source")
    with s3_server("models") as settings:
        with s3_named(settings):
            s3 = boto3.client("s3")
        for file in source.iterdir():
            s3.upload_file(str(file), "models", f"in/{name}/step-1/{file.name}")
        home = tmp_path / "home"
        arguments = ("s3://models/in", "--every", "1")
        with Watcher(home, *arguments, api=api, **settings) as watcher:
            watcher.wait_for("announced")
            code, took_s = watcher.end()
    assert code == 0
    assert took_s < 20  # 2 s on a quiet machine
    (event,) = events(api, name=name)
    digest = admit_checkpoint(source).digest
    assert event["payload"]["path"] == str(home / "landed" / name / digest[:12])
    assert event["payload"]["digest"] == digest
