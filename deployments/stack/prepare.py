"""What a server needs before a worker can work: the pool, prefect.yaml's deployments, automations.

Done again only when the files that decide it have changed, or the server has lost them.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from deployments.stack.members import ROOT, environment_for
from deployments.stack.places import LANDED, LANDING, Plan, Stack
from deployments.stack.server import configured_api
from flows.server_watch import require_prefect_api, without_secrets
from tasks.core.addresses import require_plain_address
from tasks.core.errors import EnvironmentUnfit, IngotError, InputError
from tasks.core.settings import Settings

PREFECT_YAML = ROOT / "prefect.yaml"
PREPARE_S = 300
OURS = ("process",)
# A shared server's worker may start containers instead; deployments/pools has their templates.
SHARED = (*OURS, "docker", "kubernetes")


def prepare(stack: Stack, plan: Plan, *, types: Sequence[str] = OURS) -> tuple[Plan, bool]:
    """Make pool, deployments and automations those of the files.

    Args:
        stack: keeps the copy of prefect.yaml where one is needed.
        plan: what is to be deployed, and where.
        types: what a pool that is there already may be.

    Returns:
        The plan with what is deployed, and whether anything had to be.

    Raises:
        InputError: prefect.yaml is wrong, or the pool is of another kind.
        EnvironmentUnfit: the server refused it.
    """
    ensure_pool(plan.pool, plan.limit, types)
    digest = digest_of_files(plan)
    if digest == plan.deployed and has_deployments(plan.deployments):
        return plan, False
    names = _checked(plan)
    # The command line, because its defaults are the ones that prefect.yaml was tested with.
    deploy = [
        "prefect",
        "--no-prompt",
        "deploy",
        "--all",
        "--prefect-file",
        str(_file(stack, plan)),
    ]
    _require_success("deploy prefect.yaml", _run(plan, *deploy))
    if not has_deployments(names):  # it exits with 0 after some failures (3.8.8)
        raise EnvironmentUnfit(
            "the server does not have the deployments of prefect.yaml", expected=", ".join(names)
        )
    _require_success("apply the automations", _run(plan, "deployments.automations"))
    return plan.model_copy(update={"deployed": digest, "deployments": names}), True


def digest_of_files(plan: Plan) -> str:
    """Give a digest of all that decides what is deployed: files, forms, pool, searched folder."""
    files = [
        PREFECT_YAML,
        *sorted((ROOT / "deployments").glob("*.yaml")),
        *sorted((ROOT / "deployments").glob("*.py")),
        *sorted((ROOT / "flows").glob("*.py")),
        ROOT / "tasks" / "core" / "records.py",
    ]
    total = hashlib.sha256(f"{plan.api}\0{plan.pool}\0{searched_folder(plan)}\0".encode())
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def searched_folder(plan: Plan) -> str:
    """Give the folder whose newest checkpoint is released each night: the first that is watched.

    A relative one is in the INGOT_HOME of whichever worker takes the run.
    """
    folders = [one for one in plan.folders if "://" not in one]
    if not folders:
        return LANDED if plan.folders else LANDING
    return LANDING if Path(folders[0]) == Settings().home / LANDING else folders[0]


def ensure_pool(name: str, limit: int, types: Sequence[str] = OURS) -> None:
    """Make a process pool, or give the one that is there this limit of runs at the same time.

    Not by the command line, which looks up pool types on the network (3.8.8).

    Raises:
        InputError: a pool of that name is of another type.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            wanted = WorkPoolCreate(
                name=name, type="process", base_job_template=template, concurrency_limit=limit
            )
            client.create_work_pool(wanted)
            return
        if pool.type not in types:
            raise InputError(
                f"the work pool {name!r} is of type {pool.type}",
                expected=" or ".join(types),
                next_step="name another one with --pool",
            )
        if pool.concurrency_limit != limit:
            client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))


def has_deployments(names: list[str]) -> bool:
    """Tell whether the server has deployments of all these names."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            for name in names:
                client.read_deployment_by_name(name)
        except ObjectNotFound:
            return False
    return True


def _file(stack: Stack, plan: Plan) -> Path:
    """Give prefect.yaml, or a copy with the plan's pool and the folder that it watches.

    `--pool` does not count together with `--all` (3.8.8).
    """
    document = yaml.safe_load(PREFECT_YAML.read_text(encoding="utf-8"))
    wanted = copy.deepcopy(document)
    for entry in wanted["deployments"]:
        entry["work_pool"]["name"] = plan.pool
        _search(entry, searched_folder(plan))
    if wanted == document:
        return PREFECT_YAML
    stack.folder.mkdir(parents=True, exist_ok=True)
    file = stack.folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
    return file


def _search(entry: dict[str, Any], folder: str) -> None:
    """Have a deployment of the newest checkpoint search a folder; one of its own choice stays."""
    request = entry.get("parameters", {}).get("request", {})
    if request.get("newest") and request["checkpoint"] == LANDING:
        request["checkpoint"] = folder


def _checked(plan: Plan) -> list[str]:
    """Give the deployments of prefect.yaml; in a process of its own, because it imports all flows.

    Raises:
        InputError: a key, flow, parameter, schedule or trigger in it is wrong.
    """
    answer = _run(plan, "deployments.check")
    if answer.returncode:
        raise InputError(
            f"{PREFECT_YAML.name} cannot be deployed",
            got=_end_of(answer),
            next_step="mend it; `python -m deployments.check` says when it is right",
        )
    return [line for line in answer.stdout.splitlines() if "/" in line]


def _run(plan: Plan, *module: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [sys.executable, "-m", *module],
            cwd=ROOT,  # runs are then made in this folder
            env=environment_for(plan),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PREPARE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise EnvironmentUnfit(f"`{' '.join(module)}` took longer than {PREPARE_S} s") from problem


def _require_success(what: str, answer: subprocess.CompletedProcess[str]) -> None:
    if answer.returncode:
        raise EnvironmentUnfit(f"could not {what}", got=_end_of(answer))


def _end_of(answer: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((answer.stdout + answer.stderr).strip().splitlines()[-8:])


def main(arguments: list[str] | None = None) -> None:
    """Prepare the configured server, for where `ingot up` does not: containers, shared servers."""
    parser = argparse.ArgumentParser(prog="python -m deployments.stack.prepare")
    parser.add_argument("--pool", default="ingot", help="work pool; if new, of type process")
    parser.add_argument("--limit", type=int, default=4, help="runs at the same time")
    parser.add_argument(
        "--watch",
        action="append",
        default=[],
        help="folder or URL that the watcher watches; release/nightly searches the first",
    )
    asked = parser.parse_args(arguments)
    try:
        for place in asked.watch:
            require_plain_address(place, "--watch")
        api = without_secrets(configured_api())
        if not api:
            raise EnvironmentUnfit("no server to prepare", next_step="set PREFECT_API_URL")
        require_prefect_api()
        plan = Plan(api=api, port=None, pool=asked.pool, folders=asked.watch, limit=asked.limit)
        done, _ = prepare(Stack(Settings()), plan, types=SHARED)
        print("\n".join(done.deployments))
    except IngotError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
