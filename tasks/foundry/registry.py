"""Which id a variant gets, and how it gets there: same bytes, same id; other bytes, next number.

Decides from digests; whether the registered model answers is `register_child`'s business. The
callers hold the registration lock: Foundry Local locks each of its calls, not check-then-register
(measured: without it six writers gave the same bytes two versions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from tasks.core.errors import ResourceBusy
from tasks.foundry.inference_model import write_inference_model
from tasks.foundry.placement import ModelFolders
from tasks.foundry.runtime import DIGEST_PROPERTY, RegisteredModel

LOCK_FILE = "foundry-register.lock"
LOCK_WAIT_S = 900.0


class Catalog(Protocol):
    """The part of a model index that registration needs; `FoundryRuntime` is one."""

    def versions(self, alias: str) -> dict[int, RegisteredModel]:
        """Give the registered versions of an alias."""

    def register(self, model_id: str, folder: Path, properties: Mapping[str, str]) -> None:
        """Enter a folder under an id that is not taken."""

    def unregister(self, model_id: str) -> None:
        """Take one id out; its files stay."""


@dataclass(frozen=True)
class Registered:
    """A variant's place in the index.

    Attributes:
        created: False when it was there already.
    """

    model_id: str
    version: int
    folder: Path
    created: bool


@contextmanager
def registration_lock(locks: Path) -> Iterator[None]:
    """Hold the right to change the production index; freed by the kernel when the holder dies.

    Raises:
        ResourceBusy: somebody else has held it for a quarter of an hour.
    """
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / LOCK_FILE)
    try:
        lock.acquire(timeout=LOCK_WAIT_S)
    except Timeout as problem:
        raise ResourceBusy(
            f"another process has been registering for {LOCK_WAIT_S:.0f} s ({lock.lock_file})"
        ) from problem
    try:
        yield
    finally:
        lock.release()


class Registry:
    """The versions of one alias: index entries and their folders, kept in step."""

    def __init__(self, catalog: Catalog, index: Path, alias: str) -> None:
        self._catalog = catalog
        self._alias = alias
        self._folders = ModelFolders(index, alias)

    def current(self, digest: str) -> Registered | None:
        """Give the entry that the alias stands for, if it has these bytes and its folder is whole.

        An older version with the same bytes does not count: the alias would go on meaning the
        newer one.
        """
        entries = self._catalog.versions(self._alias)
        top = max(entries, default=None)
        if top is None or not self._is_whole(entries[top], digest):
            return None
        return self._registered(top, created=False)

    def enter(self, digest: str, source: Path) -> Registered:
        """Register a store object as the newest version of the alias.

        The number is new, but for two cases where these very bytes had it: a registered version
        whose folder vanished or was damaged, and a complete folder that no entry points to, left
        by a process that was killed before it registered, or by a rollback.
        """
        self._folders.sweep()
        entries = self._catalog.versions(self._alias)
        version = self._version_for(digest, entries)
        self._drop_vanished(entries)
        if version in entries and entries[version].is_cached:
            self._catalog.unregister(entries[version].model_id)
        if not self._folders.holds(version, digest):
            self._folders.remove(version)
            self._folders.place(source, version, self._finish(version))
        registered = self._registered(version, created=True)
        properties = {"display_name": self._alias, DIGEST_PROPERTY: digest}
        self._catalog.register(registered.model_id, registered.folder, properties)
        return registered

    def withdraw(self, registered: Registered) -> None:
        """Take a version out again, by its id, with its folder; the one below becomes the alias."""
        self._catalog.unregister(registered.model_id)
        self._folders.remove(registered.version)

    def _version_for(self, digest: str, entries: dict[int, RegisteredModel]) -> int:
        top = max(entries, default=0)
        if top and entries[top].digest == digest:
            return top
        on_disk = self._folders.versions()
        left_over = [n for n in on_disk if n > top and self._folders.holds(n, digest)]
        # Above the folders too: an id never means other bytes, not even after a rollback.
        return left_over[-1] if left_over else max(top, *on_disk, 0) + 1

    def _drop_vanished(self, entries: dict[int, RegisteredModel]) -> None:
        for entry in entries.values():
            if not entry.is_cached:
                self._catalog.unregister(entry.model_id)

    def _is_whole(self, entry: RegisteredModel, digest: str) -> bool:
        known = entry.is_cached and entry.digest == digest
        return known and self._folders.holds(entry.version, digest)

    def _registered(self, version: int, *, created: bool) -> Registered:
        return Registered(f"{self._alias}:{version}", version, self._folders.path(version), created)

    def _finish(self, version: int) -> Callable[[Path], None]:
        return lambda folder: write_inference_model(folder, f"{self._alias}:{version}")
