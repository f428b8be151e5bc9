"""Refuse a prefect.yaml that Prefect would accept and then ignore: `python -m deployments.check`.

Prefect drops unknown keys without a word and deploys flows that cannot be imported (measured,
3.8.8). Knows the keys that Ingot uses; what a deployment runs is the flow's business.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from prefect.flows import load_flow_from_entrypoint

from tasks.core.errors import IngotError, InputError

PREFECT_YAML = Path(__file__).resolve().parents[1] / "prefect.yaml"

# What Prefect 3.8 reads, each level by its path; `*` stands for any member of a list.
KNOWN_KEYS = {
    "": {"name", "definitions", "deployments"},
    "deployments.*": {
        "name", "description", "entrypoint", "work_pool", "concurrency_limit", "parameters",
        "schedules", "triggers", "tags", "version",
    },
    "deployments.*.work_pool": {"name", "work_queue_name", "job_variables"},
    "deployments.*.concurrency_limit": {"limit", "collision_strategy"},
    "deployments.*.schedules.*": {"cron", "timezone", "slug", "active", "parameters"},
}  # fmt: skip


def check_deployments(path: Path = PREFECT_YAML) -> list[str]:
    """Give the names of the deployments, all of whose keys are known and flows importable.

    Raises:
        InputError: a key is unknown, or a flow cannot be imported.
    """
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for level, keys in KNOWN_KEYS.items():
        for found in _members(document, level.split(".") if level else []):
            _refuse_unknown(found, keys, f"{path.name}: {level or 'top level'}")
    for deployment in document["deployments"]:
        _require_importable(deployment, path)
    return [f"{_flow_of(entry).name}/{entry['name']}" for entry in document["deployments"]]


def _members(node: Any, path: list[str]) -> list[dict[str, Any]]:
    if node is None:
        return []
    if not path:
        return [node]
    if path[0] == "*":
        return [found for member in node for found in _members(member, path[1:])]
    return _members(node.get(path[0]), path[1:])


def _refuse_unknown(found: dict[str, Any], keys: set[str], where: str) -> None:
    unknown = sorted(set(found) - keys)
    if unknown:
        raise InputError(
            f"{where}: unknown key {', '.join(unknown)}",
            expected=f"some of {', '.join(sorted(keys))}",
            next_step="mend the spelling; Prefect would drop it without a word",
        )


def _flow_of(deployment: dict[str, Any]) -> Any:
    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


def _require_importable(deployment: dict[str, Any], path: Path) -> None:
    try:
        _flow_of(deployment)
    except Exception as problem:  # importing runs any code
        raise InputError(
            f"{path.name}: the flow of deployment {deployment['name']!r} cannot be imported",
            expected="an entrypoint such as flows.release.release",
            got=f"{deployment['entrypoint']} ({type(problem).__name__}: {problem})",
        ) from problem


def main() -> None:
    """Print the deployments, or what is wrong with them."""
    try:
        print("\n".join(check_deployments()))
    except IngotError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
