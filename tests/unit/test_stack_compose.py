"""compose.yaml: every key known, nothing published but the UI on loopback, no secret inside."""

from __future__ import annotations

import copy
import os
import re
from typing import Any
from uuid import uuid4

import jsonschema
import pytest

from tests.stack_compose import COMPOSE, filled_in, read_compose, variables_of

TEXT, FLAG, TEXTS = (
    {"type": "string"},
    {"type": "boolean"},
    {"type": "array", "items": {"type": "string"}},
)
TIME = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
SIZE = {"type": "string", "pattern": r"^\d+[kmg]$"}
VARIABLES = {"type": "object", "additionalProperties": TEXT}


def closed(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": False,
    }


# The part of the compose specification that the file uses: what is not in it is a typo.
WAITS_FOR = ["service_started", "service_healthy", "service_completed_successfully"]
SERVICE = closed(
    ["image", "restart"],
    image=TEXT,
    build=closed(context=TEXT, dockerfile=TEXT, args=VARIABLES),
    command=TEXTS,
    environment=VARIABLES,
    ports=TEXTS,
    volumes=TEXTS,
    depends_on={
        "type": "object",
        "additionalProperties": closed(["condition"], condition={"enum": WAITS_FOR}),
    },
    healthcheck=closed(
        ["test"],
        test=TEXTS,
        interval=TIME,
        timeout=TIME,
        start_period=TIME,
        retries={"type": "integer"},
    ),
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
    init=FLAG,
    cap_drop=TEXTS,
    security_opt=TEXTS,
    shm_size=SIZE,
    stop_grace_period=TIME,
    logging=closed(driver=TEXT, options=VARIABLES),
)
SCHEMA = {
    **closed(
        ["services"],
        name=TEXT,
        services={"type": "object", "additionalProperties": SERVICE},
        volumes={"type": "object", "additionalProperties": {"type": "null"}},
    ),
    "patternProperties": {"^x-": {}},
}
SECRETS = {"INGOT_AUTH": "team:secret", "INGOT_DATABASE_PASSWORD": "secret"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read_compose()


def test_every_key_is_known(compose: dict[str, Any]) -> None:
    jsonschema.validate(compose, SCHEMA)


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("server", "helthcheck", {}),
        ("worker", "restart", "allways"),
        ("worker", "depends_on", {"server": {"condition": "healthy"}}),
        ("watcher", "volume", ["state:/var/lib/ingot"]),
    ],
)
def test_planted_typo_is_refused(
    compose: dict[str, Any], service: str, key: str, value: object
) -> None:
    wrong = copy.deepcopy(compose)
    wrong["services"][service][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_services_and_volumes_that_are_named_are_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in filled_in(service.get("volumes", []), {}):
            assert volume.split(":")[0] in compose["volumes"]


def test_only_the_server_is_reached_from_outside_and_only_on_loopback(
    compose: dict[str, Any],
) -> None:
    published = {k: v["ports"] for k, v in compose["services"].items() if v.get("ports")}
    assert filled_in(published, {}) == {"server": ["127.0.0.1:4200:4200"]}


def test_without_its_secrets_nothing_starts(compose: dict[str, Any]) -> None:
    filled_in(compose, SECRETS)
    for name in SECRETS:
        with pytest.raises(KeyError, match=name):
            filled_in(compose, {**SECRETS, name: ""})


def test_no_secret_is_in_the_files(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|AUTH_STRING", name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]*\}", value), name
            assert not re.search(r"://[^/]*:[^/${}]+@", value), name
    example = COMPOSE.with_name("example.env").read_text()
    assert re.findall(r"^(?!#)(\w+)=(.*)$", example, re.MULTILINE) == [(k, "") for k in SECRETS]
    assert COMPOSE.with_name(".gitignore").read_text().split() == [".env"]


def test_every_variable_is_in_the_example(compose: dict[str, Any]) -> None:
    example = COMPOSE.with_name("example.env").read_text()
    assert variables_of(compose) == set(re.findall(r"^#?(\w+)=", example, re.MULTILINE))


def test_database_is_named_alike_everywhere(compose: dict[str, Any]) -> None:
    made = filled_in(compose["services"]["database"]["environment"], SECRETS)
    asked = filled_in(compose["services"]["server"]["environment"], SECRETS)
    assert asked["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == (
        "postgresql+asyncpg://{POSTGRES_USER}:{POSTGRES_PASSWORD}@database:5432/{POSTGRES_DB}"
    ).format(**made)


def test_nightly_searches_the_folder_that_the_watcher_watches(compose: dict[str, Any]) -> None:
    told = [word for word in compose["services"]["prepare"]["command"] if "--watch" in word]
    watched = compose["services"]["watcher"]["command"][2]
    assert told == [f"--watch={watched}"]
    for name in ("prepare", "watcher", "worker"):
        mounted = filled_in(compose["services"][name]["volumes"], {})
        assert [one for one in mounted if one.split(":")[1] == watched], name


@pytest.mark.parametrize("url", ["", "https://ingot.example.com"])
def test_link_of_a_notification_leads_to_the_ui(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    from prefect.server.events.jinja_filters import all_filters
    from prefect.server.schemas.core import FlowRun
    from prefect.server.utilities.user_templates import (
        register_user_template_filters,
        render_user_template_sync,
    )
    from prefect.settings import temporary_settings

    from deployments.automations import NOTIFICATIONS, read_automations

    told = filled_in(compose["services"]["server"]["environment"], {**SECRETS, "INGOT_URL": url})
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    run = FlowRun(flow_id=uuid4())
    register_user_template_filters(all_filters)  # as the server does before it sends one
    for one in read_automations(NOTIFICATIONS, block=uuid4()):
        with temporary_settings():
            text = render_user_template_sync(one.actions[0].body, {"flow_run": run})
        assert f"{url or 'http://127.0.0.1:4200'}/runs/flow-run/{run.id}" in text


def test_image_runs_as_a_user_without_rights(compose: dict[str, Any]) -> None:
    lines = COMPOSE.with_name("Dockerfile").read_text().splitlines()
    assert lines.index("USER 10001") > max(i for i, line in enumerate(lines) if "RUN" in line)
    for name, service in compose["services"].items():
        if name != "database":
            assert service["cap_drop"] == ["ALL"], name


def test_no_file_names_a_registry() -> None:
    for path in COMPOSE.parent.iterdir():
        assert not re.search(r"docker\.io|ghcr\.io|quay\.io|pypi|download\.", path.read_text())


def test_prefect_has_every_setting_that_is_set(compose: dict[str, Any]) -> None:
    import prefect.settings

    names = {
        name for service in compose["services"].values() for name in service.get("environment", {})
    }
    settings = {name for name in names if name.startswith("PREFECT_")}
    assert len(settings) > 8
    assert [name for name in sorted(settings) if not hasattr(prefect.settings, name)] == []
    assert not hasattr(prefect.settings, "PREFECT_WORKER_QUERRY_SECONDS")
