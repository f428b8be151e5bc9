"""A bucket, or anything else that fsspec lists, in which checkpoints land.

Looked at every now and then, for object stores tell of nothing. What has landed is brought to this
machine, because a release reads files: aside first, checked there, and renamed once it is whole.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from deployments.watch.digest import read_checkpoint
from deployments.watch.listing import Listed, checkpoints_in, leads_out
from deployments.watch.sighting import Landed, Sighting
from flows.preflight import QUESTIONS_NAME
from flows.server_watch import without_secrets
from tasks.checkpoint.admit import choose_name
from tasks.checkpoint.folder import CheckpointFolder, refuse_unsafe_content
from tasks.checkpoint.weights import INDEX, weight_files
from tasks.core.checkpoint_files import checkpoint_digest, deciding_files
from tasks.core.errors import (
    CheckpointIncomplete,
    CheckpointRefused,
    DoesNotFit,
    IngotError,
    InputError,
    ResourceBusy,
    ToolMissing,
    error_from_fields,
)
from tasks.core.files import sync_file, sync_folder

PARTIAL = ".partial-"
DIGEST_SHOWN = 12  # characters of it that name a folder
_MARGIN_BYTES = 256 * 1024 * 1024
_INDEX_LIMIT_BYTES = 8 * 1024 * 1024
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")


class FileSystem(Protocol):
    """As much of an fsspec file system as a bucket needs."""

    def find(self, path: str, *, detail: bool) -> Mapping[str, dict[str, Any]]:
        """List everything below a path."""

    def get_file(self, rpath: str, lpath: str) -> None:
        """Bring one object here."""


class Bucket:
    """A watched prefix.

    Args:
        url: such as `s3://bucket/prefix`.
        into: where checkpoints are brought to.
        name: what every release is called; None to call it after its folder.
        every_s: how often it is listed; what is the same twice has landed.

    Raises:
        InputError: no such kind of URL.
        ToolMissing: the package for it is not installed.
    """

    def __init__(
        self, url: str, *, into: Path, name: str | None = None, every_s: float = 30.0
    ) -> None:
        self.address = without_secrets(url).rstrip("/")
        self.quiet_s = self.every_s = every_s
        self._into = into
        self._name = name
        self._files, self._root = _open(url, self.address)

    def sweep(self) -> int:
        """Remove what an interrupted download left; gives how many."""
        left = [*self._into.glob(f"{PARTIAL}*"), *self._into.glob(f"*/{PARTIAL}*")]
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        return len(left)

    def look(self) -> list[Sighting]:
        """Give the checkpoint folders as they are listed now.

        Raises:
            OSError: the bucket cannot be listed.
        """
        return [self._sight(name, listed) for name, listed in self._list().items()]

    def take_in(self, sighting: Sighting) -> Landed:
        """Bring a checkpoint here and check it; see `Place.take_in`."""
        listed = self._require_same(sighting)
        name = choose_name(self._name, Path(sighting.named_after))
        self._into.mkdir(parents=True, exist_ok=True)
        partial = self._into / f"{PARTIAL}{uuid.uuid4().hex[:12]}"
        partial.mkdir()
        try:
            with _said_of(partial, sighting.key):
                self._bring(listed, partial)
                inspection, digest = read_checkpoint(partial)
            self._require_same(sighting)
            home = self._into / name / digest[:DIGEST_SHOWN]
            weights = [shard.path.name for shard in inspection.weights.shards]
            _publish(partial, home, digest, weights)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Landed(
            path=home,
            name=name,
            digest=digest,
            size_bytes=inspection.weights.size_bytes,
            has_questions=(home / QUESTIONS_NAME).is_file(),
        )

    def _list(self) -> dict[str, Listed]:
        return checkpoints_in(self._root, self._files.find(self._root, detail=True))

    def _sight(self, name: str, listed: Listed) -> Sighting:
        home = name.partition("/")[0]
        return Sighting(f"{self.address}/{name}", home, listed.signature, listed.haste)

    def _require_same(self, sighting: Sighting) -> Listed:
        for name, listed in self._list().items():
            if self._sight(name, listed) == sighting:
                return listed
        raise ResourceBusy(f"{sighting.key} changed while it was read")

    def _bring(self, listed: Listed, folder: Path) -> None:
        """Download what a release reads, once the names alone say that it is all there."""
        for name in listed.objects:
            _refuse_way_out(name)
        if missing := [name for name in _NEEDED if name not in listed.objects]:
            raise CheckpointIncomplete(f"{folder} has no {missing[0]}")
        names = CheckpointFolder(folder, {name: folder / name for name in listed.objects})
        refuse_unsafe_content(names)
        if INDEX in listed.objects and listed.objects[INDEX]["size"] <= _INDEX_LIMIT_BYTES:
            self._get(listed.objects[INDEX], folder / INDEX)
        wanted = deciding_files(listed.objects, weight_files(names))
        objects = {name: listed.objects[name] for name in wanted}
        questions = listed.objects.get(QUESTIONS_NAME, listed.beside)
        if questions is not None:
            objects[QUESTIONS_NAME] = questions
        self._require_room(sum(info["size"] for info in objects.values()))
        for name, info in sorted(objects.items()):
            self._get(info, folder / name)

    def _get(self, info: dict[str, Any], target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        self._files.get_file(info["name"], str(target))
        if target.stat().st_size != info["size"]:
            raise ResourceBusy(f"{info['name']} changed while it was read")
        sync_file(target)

    def _require_room(self, size: int) -> None:
        free = shutil.disk_usage(self._into).free
        if free < size + _MARGIN_BYTES:
            raise DoesNotFit(
                f"{self._into} has no room for a checkpoint that landed in {self.address}",
                expected=f"{(size + _MARGIN_BYTES) / 1e9:,.2f} GB",
                got=f"{free / 1e9:,.2f} GB free",
                next_step="make room, or bring checkpoints elsewhere with --into",
            )


def _open(url: str, address: str) -> tuple[FileSystem, str]:
    import fsspec

    try:
        # Never a listing from before: what is new is what this is about.
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as problem:
        raise ToolMissing(
            f"{address} cannot be watched: {problem}",
            next_step="install what larger set-ups need with `python make.py cluster`",
        ) from problem
    except ValueError as problem:
        raise InputError(
            f"{address} cannot be watched: {problem}",
            expected="a folder, or a URL such as s3://bucket/prefix",
            next_step="check the spelling",
        ) from problem
    return files, str(root).rstrip("/")


def _refuse_way_out(name: str) -> None:
    if leads_out(name):
        raise CheckpointRefused(
            f"an object is called {name!r}",
            expected="names of files in the checkpoint's own folder",
            next_step="do not use this checkpoint unless you trust where it is from",
        )


@contextmanager
def _said_of(partial: Path, key: str) -> Iterator[None]:
    """Name the bucket's folder in refusals, not the one that is here for a moment."""
    try:
        yield
    except IngotError as problem:
        fields = {
            part: text.replace(str(partial), key) for part, text in problem.to_fields().items()
        }
        raise error_from_fields(type(problem).__name__, fields) from problem


def _publish(partial: Path, home: Path, digest: str, weights: list[str]) -> None:
    """Make a checkpoint visible, whole; one that is there stays, with the new questions."""
    if home.is_dir():
        if _is_whole(home, digest, weights):
            _renew_questions(partial, home)
            return
        # Half deleted, or changed by somebody: aside first, so that it is never a mixture.
        doomed = home.with_name(f"{PARTIAL}{uuid.uuid4().hex[:12]}")
        home.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    for folder in (partial, *(entry for entry in partial.iterdir() if entry.is_dir())):
        sync_folder(folder)
    partial.rename(home)
    sync_folder(home.parent)


def _renew_questions(partial: Path, home: Path) -> None:
    """Bring questions into a home that has others or none; a release may be reading it."""
    if (partial / QUESTIONS_NAME).is_file():
        (partial / QUESTIONS_NAME).replace(home / QUESTIONS_NAME)
        sync_folder(home)


def _is_whole(home: Path, digest: str, weights: list[str]) -> bool:
    try:
        return checkpoint_digest(home, weights) == digest
    except OSError:
        return False
