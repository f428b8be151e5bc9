"""prefect.yaml says what a real server then has; what Prefect would drop silently is refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from deployments.check import PREFECT_YAML, check_deployments
from tasks.core.errors import InputError


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = PREFECT_YAML.read_text()
    assert old in text
    path = tmp_path / "prefect.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_every_deployment_is_known_and_importable() -> None:
    assert check_deployments() == ["release/manual"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("concurrency_limit:", "concurency_limit:"),
        ("collision_strategy:", "colision_strategy:"),
        ("schedules:", "scheduels:"),
    ],
)
def test_misspelt_key_is_refused(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(InputError, match=new.rstrip(":")):
        check_deployments(changed(tmp_path, old, new))


def test_flow_that_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, "flows.release.release", "flows.release.no_such_flow")
    with pytest.raises(InputError, match="cannot be imported"):
        check_deployments(path)


@pytest.mark.flow
@pytest.mark.usefixtures("prefect_server")
def test_server_has_the_deployment_as_the_file_says() -> None:
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    create = [*prefect, "work-pool", "create", "ingot", "--type", "process", "--overwrite"]
    for command in (create, [*prefect, "deploy", "--all"]):
        subprocess.run(command, cwd=PREFECT_YAML.parent, env=environment, check=True)

    async def read_back() -> object:
        async with get_client() as client:
            return await client.read_deployment_by_name("release/manual")

    deployment = asyncio.run(read_back())
    wanted = yaml.safe_load(PREFECT_YAML.read_text())["deployments"][0]
    assert deployment.entrypoint == wanted["entrypoint"]
    assert deployment.work_pool_name == "ingot"
    assert deployment.global_concurrency_limit.limit == 1
    assert "checkpoint" in str(deployment.parameter_openapi_schema)
