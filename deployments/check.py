"""Refuse a prefect.yaml that Prefect would accept and then ignore: `python -m deployments.check`.

Prefect drops unknown keys without a word, deploys flows that cannot be imported, and leaves an
unset `{{ $VARIABLE }}` as it stands (measured, 3.8.8). Knows the keys that Ingot uses; what a
deployment runs is the flow's business.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefect.settings
import yaml
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow, load_flow_from_entrypoint

from deployments.parameters import require_complete, require_parameters
from deployments.trigger import require_trigger
from tasks.core.errors import IngotError, InputError

PREFECT_YAML = Path(__file__).resolve().parents[1] / "prefect.yaml"

# What Prefect 3.8 reads, each level by its path; `*` stands for any member of a list.
KNOWN_KEYS = {
    "": {"name", "definitions", "deployments"},
    "deployments.*": {
        "name", "description", "entrypoint", "work_pool", "concurrency_limit", "parameters",
        "enforce_parameter_schema", "schedules", "triggers", "tags", "version",
    },
    "deployments.*.work_pool": {"name", "work_queue_name", "job_variables"},
    "deployments.*.work_pool.job_variables": {"env", "working_dir", "stream_output"},
    "deployments.*.concurrency_limit": {"limit", "collision_strategy"},
    "deployments.*.schedules.*": {"cron", "timezone", "slug", "active", "parameters"},
    "deployments.*.triggers.*": {
        "type", "name", "description", "enabled", "expect", "after", "match", "match_related",
        "for_each", "posture", "threshold", "within", "parameters",
    },
}  # fmt: skip
_VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")


def check_deployments(path: Path = PREFECT_YAML) -> list[str]:
    """Give the names of the deployments of a file in which all is known and can work.

    Raises:
        InputError: a key is unknown, a definition unused, a variable unset, a flow cannot be
            imported, or its parameters, schedules, limits or triggers are wrong.
    """
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for level, keys in KNOWN_KEYS.items():
        for found in _members(document, level.split(".") if level else []):
            _refuse_unknown(found, keys, f"{path.name}: {level or 'top level'}")
    _refuse_unused_definitions(document, path)
    _refuse_unset_variables(document, path)
    return [_check_deployment(entry, path) for entry in document["deployments"]]


def _check_deployment(entry: dict[str, Any], path: Path) -> str:
    where = f"{path.name}: deployment {entry.get('name')!r}"
    flow = _flow_of(entry, where)
    where = f"{path.name}: {flow.name}/{entry['name']}"
    require_parameters(flow, entry.get("parameters") or {}, where)
    for schedule in entry.get("schedules") or []:
        _require_schedule(flow, entry, schedule, where)
    for trigger in entry.get("triggers") or []:
        require_trigger(flow, trigger, where)
    _require_limit(entry.get("concurrency_limit"), where)
    _require_settings(entry["work_pool"], where)
    return f"{flow.name}/{entry['name']}"


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


def _refuse_unused_definitions(document: dict[str, Any], path: Path) -> None:
    """Refuse an anchor that no deployment takes: nobody would see what is wrong in it."""
    used = {id(node) for node in _nodes(document["deployments"])}
    unused = [
        k for k, found in (document.get("definitions") or {}).items() if id(found) not in used
    ]
    if unused:
        raise InputError(
            f"{path.name}: definitions: {', '.join(unused)} is used by no deployment",
            next_step="remove it, or mend the alias (`*name`) that should take it",
        )


def _refuse_unset_variables(document: dict[str, Any], path: Path) -> None:
    texts = [node for node in _nodes(document) if isinstance(node, str)]
    unset = {name for text in texts for name in _VARIABLE.findall(text) if name not in os.environ}
    if unset:
        raise InputError(
            f"{path.name}: the environment has no {', '.join(sorted(unset))}",
            next_step="set it before deploying; Prefect would deploy the braces as they stand",
        )


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _nodes(child)


def _flow_of(entry: dict[str, Any], where: str) -> Flow[..., Any]:
    try:
        return load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
    except Exception as problem:  # importing runs any code
        raise InputError(
            f"{where}: its flow cannot be imported",
            expected="an entrypoint such as flows.release.release",
            got=f"{entry.get('entrypoint')} ({type(problem).__name__}: {problem})",
        ) from problem


def _require_schedule(
    flow: Flow[..., Any], entry: dict[str, Any], schedule: dict[str, Any], where: str
) -> None:
    where = f"{where}: schedule {schedule.get('slug')!r}"
    try:
        CronSchedule(cron=schedule["cron"], timezone=schedule.get("timezone", "UTC"))
    except (KeyError, ValueError) as problem:
        raise InputError(
            f"{where}: cannot be read",
            expected='cron: "0 2 * * *", and a timezone such as UTC',
            got=f"{schedule.get('cron')!r}, {schedule.get('timezone')!r} ({problem})",
        ) from problem
    own = {**(entry.get("parameters") or {}), **(schedule.get("parameters") or {})}
    require_complete(flow, own, where)


def _require_limit(limit: dict[str, Any] | None, where: str) -> None:
    """Each deployment says what becomes of a second run."""
    strategies = [one.value for one in ConcurrencyLimitStrategy]
    found = limit or {}
    if not isinstance(found.get("limit"), int) or found.get("collision_strategy") not in strategies:
        raise InputError(
            f"{where}: concurrency_limit cannot be read",
            expected=f"limit: a number, collision_strategy: {' or '.join(strategies)}",
            got=str(limit),
        )


def _require_settings(pool: dict[str, Any], where: str) -> None:
    environment = (pool.get("job_variables") or {}).get("env") or {}
    unknown = [
        name
        for name in environment
        if name.startswith("PREFECT_") and not hasattr(prefect.settings, name)
    ]
    if unknown:
        raise InputError(
            f"{where}: Prefect has no setting {', '.join(unknown)}", next_step="mend the spelling"
        )


def main() -> None:
    """Print the deployments, or what is wrong with them."""
    try:
        print("\n".join(check_deployments()))
    except IngotError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
