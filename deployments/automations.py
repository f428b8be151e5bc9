"""Automations as code: `python -m deployments.automations [--dry-run] [--notify BLOCK] [--remove]`.

`prefect automation create` makes them again each time it is run (measured, 3.8.8), so they are
read by name here, and created, changed in place or removed only where they differ. Ours have a tag
with the name of their file; others are left alone. What they do is in the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.filters import AutomationFilter, AutomationFilterTags
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from tasks.core.errors import IngotError, InputError

FOLDER = Path(__file__).resolve().parent
AUTOMATIONS = FOLDER / "automations.yaml"
NOTIFICATIONS = FOLDER / "notifications.yaml"
TAG = "ingot-file"


def apply_automations(
    files: Sequence[Path] | None = None, *, block: UUID | None = None, dry_run: bool = False
) -> list[str]:
    """Make the server's automations those of the files; applied again, it changes nothing.

    Args:
        files: automations.yaml unless given.
        block: id of the notification block that `send-notification` goes through.
        dry_run: only say what would be done.

    Returns:
        What was done, one line an automation, such as `created ingot-resume-crashed`.

    Raises:
        InputError: a file cannot be read as automations, or has a key that Prefect would drop.
    """
    done: list[str] = []
    for file in files or [AUTOMATIONS]:
        wanted = read_automations(file, block=block)
        with get_client(sync_client=True) as client:
            done += _apply(client, wanted, _ours(client, file), dry_run=dry_run)
    return done


def notify_through(slug: str, *, dry_run: bool = False) -> list[str]:
    """Have the notifications sent through a block, such as `slack-webhook/team`.

    Raises:
        InputError: the server has no such block, or it sends no notifications.
    """
    with get_client(sync_client=True) as client:
        block = _notification_block(client, slug)
    return apply_automations([NOTIFICATIONS], block=block, dry_run=dry_run)


def remove_automations(*, dry_run: bool = False) -> list[str]:
    """Remove all of ours, notifications too; gives what was done."""
    done: list[str] = []
    with get_client(sync_client=True) as client:
        for file in (AUTOMATIONS, NOTIFICATIONS):
            done += _apply(client, [], _ours(client, file), dry_run=dry_run)
    return done


def read_automations(file: Path, *, block: UUID | None = None) -> list[AutomationCore]:
    """Read a file of automations, with nothing in it that Prefect would drop.

    Raises:
        InputError: it cannot be read, has an unknown key or the same name twice.
    """
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8")) or []
    except (OSError, yaml.YAMLError) as problem:
        raise InputError(f"{file} cannot be read: {problem}") from problem
    wanted = [_automation(entry, file, block) for entry in entries]
    names = [one.name for one in wanted]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{file.name}: {', '.join(sorted(twice))} is there twice")
    return wanted


def _automation(entry: dict[str, Any], file: Path, block: UUID | None) -> AutomationCore:
    where = f"{file.name}: {entry.get('name')}"
    actions = [
        {**action, "block_document_id": str(block)} if _notifies(action) and block else action
        for action in entry.get("actions", [])
    ]
    entry = {**entry, "actions": actions}
    try:
        found = AutomationCore.model_validate({**entry, "tags": [_tag(file)]})
    except ValidationError as problem:
        place, fault = _fault(problem)
        needs_block = "block_document_id" in place
        raise InputError(
            f"{where}: {place}: {fault}",
            next_step="notifications need --notify BLOCK" if needs_block else "",
        ) from problem
    if dropped := _dropped(entry, found.model_dump(mode="json", by_alias=True)):
        raise InputError(
            f"{where}: unknown key {', '.join(dropped)}",
            next_step="mend the spelling; Prefect would drop it without a word",
        )
    return found


def _fault(problem: ValidationError) -> tuple[str, str]:
    """Give place and words of the fault; those of actions of another type say nothing."""
    errors = problem.errors(include_url=False)
    others = [error["loc"][:-1] for error in errors if error["loc"][-1] == "type"]
    apt = [error for error in errors if error["loc"][:3] not in others] or errors
    return ".".join(map(str, apt[0]["loc"])), apt[0]["msg"]


def _dropped(given: Any, kept: Any, place: str = "") -> list[str]:
    """Give the keys, with their places, that are not in what Prefect made of the entry."""
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = [(f"{place}{n}.", one, kept[n]) for n, one in enumerate(given)]
        return [found for where, one, same in pairs for found in _dropped(one, same, where)]
    if not isinstance(given, dict) or not isinstance(kept, dict):
        return []
    missing = [f"{place}{key}" for key in given if key not in kept]
    deeper = [
        _dropped(one, kept[key], f"{place}{key}.") for key, one in given.items() if key in kept
    ]
    return missing + [found for part in deeper for found in part]


def _apply(
    client: SyncPrefectClient,
    wanted: list[AutomationCore],
    present: list[Automation],
    *,
    dry_run: bool,
) -> list[str]:
    by_name = {automation.name: automation for automation in reversed(present)}
    steps: list[tuple[str, Callable[[], object]]] = []
    for one in wanted:
        same = by_name.get(one.name)
        if same is None:
            steps.append((f"created {one.name}", partial(client.create_automation, one)))
        elif _content(same) != _content(one):
            steps.append((f"changed {one.name}", partial(client.update_automation, same.id, one)))
    kept = {by_name[one.name].id for one in wanted if one.name in by_name}
    gone = [old for old in present if old.id not in kept]
    steps += [(f"removed {old.name}", partial(client.delete_automation, old.id)) for old in gone]
    for _, act in steps if not dry_run else []:
        act()
    return [what for what, _ in steps]


def _ours(client: SyncPrefectClient, file: Path) -> list[Automation]:
    # The server gives the first 200 of all; a shared one may have more than that.
    tagged = AutomationFilter(tags=AutomationFilterTags(all_=[_tag(file)]))
    return client.read_automations(automations=tagged)


def _tag(file: Path) -> str:
    return f"{TAG}:{file.stem}"


def _content(automation: AutomationCore) -> Any:
    """Give what an automation does, without the ids that the server gives its parts.

    Not as JSON: that would give its sets an order, another one in each process.
    """
    return _without_ids(automation.model_dump(include=set(AutomationCore.model_fields)))


def _without_ids(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_ids(value) for key, value in node.items() if key != "id"}
    return [_without_ids(part) for part in node] if isinstance(node, list) else node


def _notifies(action: dict[str, Any]) -> bool:
    return action.get("type") == "send-notification"


def _notification_block(client: SyncPrefectClient, slug: str) -> UUID:
    kind, _, name = slug.partition("/")
    try:
        document = client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound as problem:
        raise _no_block(client, slug) from problem
    schema = document.block_schema
    if schema is None or "notify" not in schema.capabilities:
        raise _no_block(client, slug)
    return document.id


def _no_block(client: SyncPrefectClient, slug: str) -> InputError:
    blocks = client.read_block_documents(include_secrets=False)
    able = sorted(
        f"{block.block_type.slug}/{block.name}"
        for block in blocks
        if block.block_type and block.block_schema and "notify" in block.block_schema.capabilities
    )
    return InputError(
        f"there is no notification block {slug!r}",
        expected=f"one of {', '.join(able)}" if able else "a notification block; there is none yet",
        next_step="make one in the UI under Blocks, or with `Block(...).save(name)`",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Apply, and say what was done."""
    parser = argparse.ArgumentParser(prog="python -m deployments.automations")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--remove", action="store_true", help="remove all automations of Ingot")
    parser.add_argument("--notify", metavar="BLOCK", help="such as slack-webhook/team")
    options = parser.parse_args(arguments)
    try:
        if options.remove:
            done = remove_automations(dry_run=options.dry_run)
        else:
            done = apply_automations(dry_run=options.dry_run)
            if options.notify:
                done += notify_through(options.notify, dry_run=options.dry_run)
    except IngotError as problem:
        sys.exit(str(problem))
    print("\n".join(done) or "nothing to do")


if __name__ == "__main__":
    main()
