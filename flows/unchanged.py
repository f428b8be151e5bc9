"""Whether anything has changed since the last release of a name: if not, its outcome stands.

A release that was made before would be cache hits only, and starting Prefect for them takes longer
than reading the checkpoint. So the command asks here first; a run of the flow notes what it was
made of. Stricter than the caches: any change of Ingot, of a package or of the machine counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from pydantic import ValidationError

from flows.parameters import ReleaseRequest
from flows.preflight import Order
from tasks.checkpoint.admit import choose_name
from tasks.core.checkpoint_files import FileState, checkpoint_digest, file_states
from tasks.core.errors import InputError
from tasks.core.files import digest_of, sha256_file, write_text_atomically
from tasks.core.progress import step
from tasks.core.records import Digest, Record, Release
from tasks.core.reservations import reserve_reading
from tasks.core.settings import Settings
from tasks.environment.check import machine_class
from tasks.environment.cpu import read_cpu
from tasks.environment.packages import compare_packages, read_pins
from tasks.foundry.in_place import is_in_place
from tasks.foundry.ledger import champion_of
from tasks.judge.policy import policy_digest
from tasks.report.approval import is_withheld
from tasks.report.load import load_run

log = logging.getLogger(__name__)

_SOURCES = Path(__file__).resolve().parents[1]
_PACKAGES = ("flows", "tasks")


class Made(Record):
    """What the last release of a name was made of, and what came of it.

    Attributes:
        inputs: digest over all that decides but the checkpoint, see `inputs_digest`.
        files: of the checkpoint, as they lay there.
        checkpoint: digest of their bytes.
        champion: model id that the name stood for afterwards; None for no champion.
    """

    inputs: Digest
    files: list[FileState]
    checkpoint: Digest
    run_id: str
    champion: str | None


def unchanged_release(request: ReleaseRequest, order: Order, settings: Settings) -> Release | None:
    """Give the last release of this name if another one would come to the same, else None.

    Every byte of the checkpoint is read, but only when its files look untouched. The champion is
    looked for where Foundry Local has it; it is not asked again.
    """
    name = choose_name(request.name, order.checkpoint)
    made = _read(_file_of(settings, name))
    if made is None or request.approval or made.inputs != inputs_digest(order):
        return None
    with step("look for changes") as say:
        if not _is_as_it_was(made, name, order.checkpoint, settings):
            say("found: releasing anew")
            return None
        with reserve_reading(step=f"read {name}", say=say):
            digest = checkpoint_digest(order.checkpoint, order.weight_files)
        try:
            release = load_run(settings.runs / made.run_id).release
        except InputError as problem:
            log.warning("%s is released anew: %s", name, problem)
            return None
        if digest != made.checkpoint or not release.report.is_file():
            say("found: releasing anew")
            return None
        say(f"none since run {made.run_id}, digest {digest[:12]}")
    return release


def note_release(order: Order, release: Release, settings: Settings) -> None:
    """Note what a release was made of, unless another try could come to something else."""
    if release.failures or is_withheld(release):
        return
    champion = champion_of(settings, release.name)
    made = Made(
        inputs=inputs_digest(order),
        files=file_states(order.checkpoint),
        checkpoint=release.checkpoint.digest,
        run_id=release.run_id,
        champion=champion.model_id if champion else None,
    )
    try:
        write_text_atomically(
            _file_of(settings, release.name), made.model_dump_json(indent=1) + "\n"
        )
    except OSError as problem:  # only costs time
        log.warning("what %s was made of cannot be noted: %s", release.run_id, problem)


def inputs_digest(order: Order) -> Digest:
    """Digest all that decides a release but the checkpoint: order, Ingot, packages, machine."""
    packages = compare_packages(read_pins())
    parts = [
        [recipe.model_dump(mode="json") for recipe in order.recipes],
        order.questions.digest,
        order.protocol.model_dump(mode="json"),
        policy_digest(order.policy),
        [package.model_dump(mode="json") for package in packages],
        machine_class(read_cpu(), packages),
        _sources_digest(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_as_it_was(made: Made, name: str, checkpoint: Path, settings: Settings) -> bool:
    if file_states(checkpoint) != made.files:
        return False
    champion = champion_of(settings, name)
    if champion is None or made.champion is None:
        return champion is None and made.champion is None
    return champion.model_id == made.champion and is_in_place(champion, settings)


def _sources_digest() -> str:
    files = [file for name in _PACKAGES for file in (_SOURCES / name).rglob("*") if file.is_file()]
    named = [(file.relative_to(_SOURCES).as_posix(), file) for file in files]
    return digest_of((name, sha256_file(file)) for name, file in named if "__pycache__" not in name)


def _read(file: Path) -> Made | None:
    try:
        return Made.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as problem:  # only costs time
        log.warning("%s cannot be read, the release is made anew: %s", file, problem)
        return None


def _file_of(settings: Settings, name: str) -> Path:
    return settings.made / f"{name}.json"
