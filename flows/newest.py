"""Which checkpoint of a folder is next: the newest that has no verdict yet.

Only looks; what is then done with the checkpoint is the release flow's business.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from flows.parameters import ReleaseRequest
from tasks.checkpoint.admit import choose_name, inspect_checkpoint
from tasks.checkpoint.known_digests import KnownDigests
from tasks.core.errors import IngotError, InputError
from tasks.core.progress import step
from tasks.core.settings import Settings
from tasks.report.metrics_json import METRICS_FILE

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "config.json", "*.safetensors"
MEMORY = "known-checkpoints.json"


@dataclass(frozen=True)
class Candidate:
    """A folder that may be a checkpoint.

    Attributes:
        home: the first folder below the one that is searched, which gives the release its name.
        written_ns: when its weights were last written, by the file system's word.
    """

    path: Path
    home: Path
    written_ns: int


def newest_without_verdict(request: ReleaseRequest, settings: Settings) -> ReleaseRequest | None:
    """Turn a request for the newest checkpoint of a folder into one for that checkpoint.

    Folders that hold no sound checkpoint, half-copied ones among them, are passed over with a line
    in the log. A checkpoint has a verdict once a run judged the same bytes; a run that this
    machine was the reason to end does not count.

    Returns:
        None when there is nothing to release.

    Raises:
        InputError: there is no such folder, or it is itself a checkpoint.
    """
    folder = folder_of(request, settings)
    # A night in which nothing could be looked for is no night in which nothing was new.
    if not folder.exists():
        raise InputError(
            f"there is no folder {folder} to search for the newest checkpoint",
            expected="the folder in which checkpoints land, on the machine that runs the flow",
            next_step="make it, or name another one in the parameters of the schedule",
        )
    with step("choose checkpoint") as say:
        found = candidates(folder)
        say(f"{len(found)} in {folder}")
        chosen = _first_without_verdict(found, settings)
        say(f"{chosen.path} is the newest without a verdict" if chosen else "nothing new")
    if chosen is None:
        return None
    name = request.name or choose_name(None, chosen.home)
    changes = {"checkpoint": chosen.path, "name": name, "newest": False}
    return request.model_copy(update=changes)


def folder_of(request: ReleaseRequest, settings: Settings) -> Path:
    """Give the folder to search; a relative one is in INGOT_HOME, for a schedule has no other."""
    return settings.home / request.checkpoint.expanduser()


def nothing_new(request: ReleaseRequest, settings: Settings) -> str:
    """Say why there is nothing to release."""
    return f"{folder_of(request, settings)} holds no checkpoint without a verdict"


def candidates(folder: Path) -> list[Candidate]:
    """List the folders that may be checkpoints, NAME/ and NAME/ANYTHING/, the newest first.

    Below a folder that is one itself none is looked for: a trainer keeps its own there. The time
    is that of the weights, which a copy may keep or make anew; where two are equal the later name
    comes first, because trainers count upwards.

    Raises:
        InputError: the folder is itself a checkpoint, or a file.
    """
    if folder.is_file() or (folder / CONFIG).is_file():
        raise InputError(
            f"{folder} is {'a file' if folder.is_file() else 'a checkpoint itself'}",
            expected="a folder of checkpoints: NAME/ or NAME/ANYTHING/",
            next_step="leave the choice of the newest out to release this one",
        )
    found = []
    for top in _folders(folder):
        places = [top] if _looks_like_one(top) else [p for p in _folders(top) if _looks_like_one(p)]
        found += [Candidate(path, top, _written_ns(path)) for path in places]
    return sorted(found, key=lambda one: (one.written_ns, _natural(one.path)), reverse=True)


def judged(settings: Settings) -> set[str]:
    """Give the digests of the checkpoints that have a verdict, from the evidence of all runs."""
    digests = set()
    for file in settings.runs.glob(f"*/{METRICS_FILE}"):
        if file.parent.suffix == ".partial":
            continue
        try:
            release = _Document.model_validate_json(file.read_bytes()).release
        except (OSError, ValidationError) as problem:
            log.warning("%s cannot be read and does not count: %s", file, problem)
            continue
        if release.registration is not None or not release.environment_faults:
            digests.add(release.checkpoint.digest)
    return digests


def _first_without_verdict(found: list[Candidate], settings: Settings) -> Candidate | None:
    if not found:
        return None
    known = KnownDigests(settings.home / MEMORY)
    done = judged(settings)
    try:
        return next((one for one in found if _is_new(one, known, done)), None)
    finally:
        known.save(one.path for one in found)


def _is_new(candidate: Candidate, known: KnownDigests, done: set[str]) -> bool:
    try:
        choose_name(None, candidate.home)
        inspect_checkpoint(candidate.path)
        return known.digest_of(candidate.path) not in done
    except (IngotError, OSError) as problem:
        log.warning("passed over %s: %s", candidate.path, problem)
        return False


def _folders(folder: Path) -> list[Path]:
    """List the folders in a folder; hidden ones and those still being made are not there yet."""
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    ignored = (".partial", ".tmp")
    return [e for e in entries if e.is_dir() and e.name[0] != "." and e.suffix not in ignored]


def _looks_like_one(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or any(folder.glob(WEIGHTS))


def _written_ns(folder: Path) -> int:
    try:
        return max((file.stat().st_mtime_ns for file in folder.glob(WEIGHTS)), default=0)
    except OSError:  # gone, or a link that leads nowhere: the inspection says which
        return 0


def _natural(path: Path) -> list[Any]:
    """Order step-1000 after step-900."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if part.isdigit() else part for part in parts]


class _Judged(BaseModel):
    digest: str


class _Release(BaseModel):
    checkpoint: _Judged
    judgement: dict[str, Any]
    registration: dict[str, Any] | None
    environment_faults: list[str] = []


class _Document(BaseModel):
    """As much of metrics.json as tells whether there was a verdict, of every schema version."""

    release: _Release
