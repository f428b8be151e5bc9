"""Whether anything has changed since the last release of a name: if not, its outcome stands.

A release that was made before would be cache hits only, and starting Prefect for them takes longer
than reading the checkpoint. So the command asks here first; a run of the flow notes what it was
made of, if it registered a champion and another try could measure nothing more. Any doubt runs the
flow, whose caches are finer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from flows.parameters import ReleaseRequest
from flows.preflight import Order
from tasks.core.checkpoint_files import FileState, checkpoint_digest, file_states
from tasks.core.errors import IngotError
from tasks.core.files import digest_of, sha256_file, write_text_atomically
from tasks.core.progress import step
from tasks.core.records import Digest, Evidence, Record, Release
from tasks.core.reservations import reserve_reading
from tasks.core.settings import Settings
from tasks.environment.check import machine_class
from tasks.environment.cpu import read_cpu
from tasks.foundry.in_place import is_in_place
from tasks.foundry.ledger import champion_of
from tasks.judge.policy import policy_digest
from tasks.report.load import load_run

if TYPE_CHECKING:
    from tasks.examine.speed.tune import Tuned

log = logging.getLogger(__name__)

_SOURCES = Path(__file__).resolve().parents[1]
_PACKAGES = ("flows", "tasks")
_SPEED = "speed"  # the suite whose clock must have been fair


class Made(Record):
    """What the last release of a name was made of.

    Attributes:
        inputs: digest over all that decides but the checkpoint, see `inputs_digest`.
        files: of the checkpoint, as they lay there.
        checkpoint: digest of their bytes.
    """

    inputs: Digest
    files: list[FileState]
    checkpoint: Digest
    run_id: str


def unchanged_release(request: ReleaseRequest, order: Order, settings: Settings) -> Release | None:
    """Give the last release of this name if another one would come to the same, else None.

    Every byte of the checkpoint is read, but only when its files look untouched. The champion is
    looked for where Foundry Local has it; it is not asked again.
    """
    made = _read(_file_of(settings, order.name))
    if made is None or request.approval:
        return None
    with step("look for changes") as say:
        try:
            release = _standing(made, order, settings, say)
        except (OSError, IngotError) as problem:
            log.warning("%s is released anew: %s", order.name, problem)
            release = None
        say(f"none since run {release.run_id}" if release else "found: releasing anew")
    return release and _as_asked_for_now(release, request, order)


def forget_release(order: Order, settings: Settings) -> Digest | None:
    """Forget what the last release of this name was made of, and digest what this one is made of.

    A run that fails or is killed leaves no note of one before it. None where it cannot be told.
    """
    try:
        _file_of(settings, order.name).unlink(missing_ok=True)
        return inputs_digest(order)
    except (OSError, IngotError) as problem:
        log.warning("the next release of %s will be made anew: %s", order.name, problem)
        return None


def note_release(
    inputs: Digest | None,
    order: Order,
    release: Release,
    tuned: Tuned,
    evidence: Sequence[Evidence],
    settings: Settings,
) -> None:
    """Note what a release was made of, unless another try could come to something else.

    Args:
        inputs: their digest when the run began; what changed since is not what it was made of.
        order: of the release.
        release: how it ended.
        tuned: and the machine that it was tuned on.
        evidence: of all examinations.
        settings: where the note is kept.
    """
    if release.registration is None or release.failures or not is_settled(tuned, evidence):
        return
    try:
        if inputs is None or inputs != inputs_digest(order):
            return
        made = Made(
            inputs=inputs,
            files=file_states(order.checkpoint),
            checkpoint=release.checkpoint.digest,
            run_id=release.run_id,
        )
        file = _file_of(settings, release.name)
        write_text_atomically(file, made.model_dump_json(indent=1) + "\n")
    except (OSError, IngotError) as problem:  # only costs time
        log.warning("what %s was made of cannot be noted: %s", release.run_id, problem)


def is_settled(tuned: Tuned, evidence: Sequence[Evidence]) -> bool:
    """Tell whether all was measured that can be, on a free machine: as the caches ask for."""
    from tasks.examine.speed.measure import SpeedEvidence  # only a run needs it

    timed = SpeedEvidence(evidence=[part for part in evidence if part.suite == _SPEED])
    return timed.is_settled() and tuned.is_settled() and all(p.is_settled() for p in evidence)


def inputs_digest(order: Order) -> Digest:
    """Digest all that decides a release but the checkpoint: order, Ingot, packages, machine.

    Raises:
        OSError: a source file cannot be read.
    """
    settings = Settings()
    parts = [
        [recipe.model_dump(mode="json") for recipe in order.recipes],
        order.questions.digest,
        order.protocol.model_dump(mode="json"),
        policy_digest(order.policy),
        [settings.runner, settings.cluster, settings.shared],
        [sys.version, platform.platform(), *_installed()],
        machine_class(read_cpu(), []),  # versions are told above, of all packages
        _sources_digest(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _standing(
    made: Made, order: Order, settings: Settings, say: Callable[[str], None]
) -> Release | None:
    if made.inputs != inputs_digest(order) or file_states(order.checkpoint) != made.files:
        return None
    release = load_run(settings.runs / made.run_id).release
    champion = champion_of(settings, order.name)
    if (
        release.name != order.name
        or release.registration is None
        or champion is None
        or champion.model_id != release.registration.model_id
        or not is_in_place(champion, settings)
        or not release.report.is_file()
    ):
        return None
    with reserve_reading(step=f"read {order.name}", say=say):
        digest = checkpoint_digest(order.checkpoint, order.weight_files)
    return release if digest == made.checkpoint else None


def _as_asked_for_now(release: Release, request: ReleaseRequest, order: Order) -> Release:
    """Give the outcome with the paths of this request, and as one that registered nothing new."""
    assert release.registration is not None
    return release.model_copy(
        update={
            "checkpoint": release.checkpoint.model_copy(update={"path": order.checkpoint}),
            "questions": order.questions,
            "policy": request.policy,
            "registration": release.registration.model_copy(update={"created": False}),
        }
    )


def _installed() -> list[str]:
    """Name every installed distribution with its version, by the folders that say so."""
    folders = (folder for place in sys.path for folder in Path(place).glob("*.dist-info"))
    return sorted({folder.name for folder in folders})


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
