"""The shared server of compose.yaml on a real PostgreSQL: the same environment and commands.

Only hosts and ports are others, because there are no containers here.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.patient_client import patient_client
from tests.stack_compose import filled_in, read_compose

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).resolve().parents[2]
VARIABLES = {"INGOT_AUTH": "team:correct-horse", "INGOT_DATABASE_PASSWORD": "battery0staple"}
AUTH = ("team", "correct-horse")
PATIENCE_S = 240


def postgres_tool(name: str) -> str:
    """Give a tool of PostgreSQL, the newest of Debian's packages first."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = str(installed[0]) if installed else shutil.which(name)
    if found is None:
        pytest.skip(f"PostgreSQL is not installed here: no {name} (Debian: apt install postgresql)")
    return found


def soon(condition: Callable[[], Any], what: str) -> Any:
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        with contextlib.suppress(httpx.HTTPError, subprocess.CalledProcessError):
            if found := condition():
                return found
        time.sleep(0.5)
    pytest.fail(f"{what}: not within {PATIENCE_S} s")


def get(url: str, auth: tuple[str, str] | None = None) -> httpx.Response:
    return httpx.get(url, auth=auth, timeout=60, trust_env=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    whole = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in whole:
        with contextlib.suppress(psutil.Error):
            one.kill()


@dataclass
class Team:
    """The services of compose.yaml as processes of this machine."""

    folder: Path
    services: dict[str, Any]
    database_port: int = field(default_factory=free_port)
    server_port: int = field(default_factory=free_port)
    health_port: int = field(default_factory=free_port)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api"

    def environment(self, service: str) -> dict[str, str]:
        """Give exactly what the file gives, beside what any process has."""
        text = json.dumps(self.services[service]["environment"])
        for container, here in (
            ("@database:5432/", f"@127.0.0.1:{self.database_port}/"),
            ("http://server:4200/", f"http://127.0.0.1:{self.server_port}/"),
            ("/var/lib/ingot", str(self.folder / "state")),
        ):
            text = text.replace(container, here)
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "INGOT_"))}
        here = {
            "PREFECT_HOME": str(self.folder / service),  # the image's user has one too
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.health_port),
            "PYTHONPATH": str(REPOSITORY),
        }
        return {**plain, **here, **json.loads(text)}

    def command(self, service: str) -> list[str]:
        first, *rest = self.services[service]["command"]
        if first == "prefect":
            rest = ["-m", "prefect", *rest]
        swapped = {"0.0.0.0": "127.0.0.1", "4200": str(self.server_port)}
        return [sys.executable, *(swapped.get(word, word) for word in rest)]

    @contextlib.contextmanager
    def running(self, service: str) -> Iterator[Path]:
        log = self.folder / f"{service}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(service),
                env=self.environment(service),
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                yield log
            finally:
                end(process)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Start PostgreSQL and Prefect's server as the compose file does."""
    services = filled_in(read_compose(), VARIABLES)["services"]
    found = Team(tmp_path_factory.mktemp("team"), services)
    with postgres(found), found.running("server") as log:
        soon(lambda: get(f"{found.api}/health").is_success, f"server, see {log}")
        yield found


@contextlib.contextmanager
def postgres(team: Team) -> Iterator[None]:
    """Run PostgreSQL with the user, the password and the database of the compose file."""
    initdb, server = postgres_tool("initdb"), postgres_tool("postgres")
    wanted = team.services["database"]["environment"]
    # Not pytest's folder: root's own is closed to the user as whom PostgreSQL must run.
    folder = Path(tempfile.mkdtemp(prefix="ingot-postgres-"))
    who = _as_nobody(folder)
    password = folder / "password"
    password.write_text(wanted["POSTGRES_PASSWORD"])
    try:
        make = [initdb, "--auth=scram-sha-256", f"--username={wanted['POSTGRES_USER']}"]
        make += [f"--pwfile={password}", f"--pgdata={folder / 'data'}"]
        subprocess.run(make, check=True, cwd=folder, stdout=subprocess.DEVNULL, **who)
        start = [server, "-D", str(folder / "data"), "-p", str(team.database_port)]
        start += ["-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(start, cwd=folder, stderr=log, **who)
        try:
            ready = list(team.services["database"]["healthcheck"]["test"])[2:]
            where = ["--host=127.0.0.1", f"--port={team.database_port}"]
            ask = [postgres_tool("pg_isready"), *ready, *where]
            soon(lambda: subprocess.call(ask, stdout=subprocess.DEVNULL) == 0, "PostgreSQL")
            create = f"CREATE DATABASE {wanted['POSTGRES_DB']}"
            psql(team, create, database="postgres")
            yield
        finally:
            end(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_nobody(folder: Path) -> dict[str, Any]:
    """Give the folder to a user without rights, where we are root: PostgreSQL refuses to be."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def psql(team: Team, statement: str, database: str | None = None) -> str:
    wanted = team.services["database"]["environment"]
    command = [postgres_tool("psql"), "--host=127.0.0.1", f"--port={team.database_port}"]
    command += [f"--username={wanted['POSTGRES_USER']}", "--no-align", "--tuples-only"]
    command += [f"--dbname={database or wanted['POSTGRES_DB']}", f"--command={statement}"]
    environment = {**os.environ, "PGPASSWORD": wanted["POSTGRES_PASSWORD"]}
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return answer.stdout.strip()


def test_server_asks_everybody_for_the_password(team: Team) -> None:
    page = f"{team.api}/admin/version"
    assert get(page).status_code == 401
    assert get(page, auth=("team", "wrong")).status_code == 401
    assert get(page, auth=AUTH).status_code == 200
    assert get(f"{team.api}/health").status_code == 200  # of the health check


def test_server_keeps_everything_in_postgres(team: Team) -> None:
    connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    assert int(psql(team, connected)) > 1  # psql's own is one of them
    assert int(psql(team, "SELECT count(*) FROM block_type")) > 0
    assert not list((team.folder / "server").glob("*.db"))


def test_deployments_are_prepared_and_a_worker_runs_one(team: Team) -> None:
    prepare = subprocess.run(
        team.command("prepare"),
        env=team.environment("prepare"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert prepare.returncode == 0, prepare.stderr
    names = prepare.stdout.split()
    assert {"release/on-checkpoint", "soak/weekly"} <= set(names)
    with patient_client(team.api, auth=AUTH) as client:
        for name in names:
            client.get(f"/deployments/name/{name}").raise_for_status()
        nightly = client.get("/deployments/name/release/nightly").json()["parameters"]
        assert nightly == {"request": {"checkpoint": "/landing", "newest": True}}
        # Nothing is registered there yet, so this flow ends at once, and says so.
        weekly = client.get("/deployments/name/soak/weekly").json()["id"]
        run = client.post(f"/deployments/{weekly}/create_flow_run", json={}).json()["id"]
        with team.running("worker") as log:
            health = f"http://127.0.0.1:{team.health_port}/health"
            soon(lambda: get(health).is_success, f"the worker's health check, see {log}")

            def ended() -> Any:
                state = client.get(f"/flow_runs/{run}").json()["state"]
                return state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} and state

            state = soon(ended, f"the run, see {log}")
    assert (state["type"], state["name"]) == ("COMPLETED", "NothingToSoak"), state
    assert psql(team, f"SELECT state_name FROM flow_run WHERE id = '{run}'") == "NothingToSoak"


def test_preparing_without_the_password_says_what_to_set(team: Team) -> None:
    environment = team.environment("prepare")
    del environment["PREFECT_API_AUTH_STRING"]
    answer = subprocess.run(
        team.command("prepare"),
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert "401" in answer.stderr
    assert "PREFECT_API_AUTH_STRING" in answer.stderr


@pytest.mark.parametrize("kind", ["kubernetes", "docker"])
def test_pool_is_made_from_its_template_without_the_integration(team: Team, kind: str) -> None:
    file = REPOSITORY / "deployments" / "pools" / f"{kind}.json"
    create = ["prefect", "--no-prompt", "work-pool", "create", f"ingot-{kind}", "--type", kind]
    made = subprocess.run(
        [sys.executable, "-m", *create, "--base-job-template", str(file)],
        env=team.environment("prepare"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    pool = get(f"{team.api}/work_pools/ingot-{kind}", auth=AUTH).json()
    assert pool["type"] == kind
    assert pool["base_job_template"] == json.loads(file.read_text())
