"""The store of a machine among several: what one publishes, the others fetch when they need it.

Locks, staging and the files that steps read stay on the machine; the shared place only ever gets
and gives whole objects, and every byte that comes from it is hashed before it counts.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tasks.core.errors import ResourceBusy
from tasks.core.locks import lock_file
from tasks.core.settings import Settings
from tasks.core.shared_objects import SharedObjects, shared_url
from tasks.core.store import MANIFEST, Manifest, Store, read_folder

log = logging.getLogger(__name__)


def store_of(settings: Settings) -> Store:
    """Give the store that the settings mean: this machine's own, or one that is shared.

    Raises:
        InputError: INGOT_SHARED is no address, or holds credentials.
    """
    if settings.shared is None:
        return Store(settings.store)
    objects = SharedObjects(shared_url(settings.shared))
    return SharedStore(settings.store, objects, settings.locks)


def records_block(url: str) -> str:
    """Name the Prefect block of the records at a shared URL; one server may know several."""
    return f"ingot-records-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


class SharedStore(Store):
    """A local store that sends what it publishes to a shared place, and fetches what it lacks.

    Args:
        root: the local store.
        objects: the shared place.
        locks: folder of this machine's locks, so that an object is fetched once.
    """

    def __init__(self, root: Path, objects: SharedObjects, locks: Path) -> None:
        super().__init__(root)
        self._shared = objects
        self._locks = locks

    def path(self, digest: str) -> Path:
        """Where an object is on this machine; fetched first when only the others have it."""
        if not self._folder(digest).is_dir():
            self._fetch(digest)
        return self._folder(digest)

    def publish(self, staged: Path) -> str:
        """Publish here, then for all; see `Store.publish`.

        Raises:
            ResourceBusy, EnvironmentUnfit: it is here, but the shared place does not take it.
        """
        digest = super().publish(staged)
        self._send(digest)
        return digest

    def is_intact(self, digest: str, *, deep: bool = False) -> bool:
        """Tell whether all machines have an object, and mend what one side lacks.

        Args:
            digest: the object's name.
            deep: hash every byte of it here, fetched first if need be.
        """
        if self._is_intact_here(digest, deep=deep):
            self._send(digest)
            return True
        return self._fetch(digest) if deep else self._shared.is_whole(digest)

    def discard(self, digest: str) -> None:
        """Remove an object for all machines; what others have fetched stays theirs."""
        self._shared.discard(digest)
        self._discard_here(digest)

    def share(self, digest: str, sources: Mapping[str, Path]) -> None:
        """Send files from elsewhere on this machine, by their names in the object.

        Raises:
            ResourceBusy: they are not what the digest says (any more).
        """
        if self._shared.is_whole(digest):
            return
        manifest = Manifest.of(sources)
        if manifest.digest != digest:
            raise ResourceBusy(
                f"files changed before they were shared: {next(iter(sources.values())).parent}",
                expected=f"content {digest[:12]}",
                got=f"content {manifest.digest[:12]}",
                next_step="wait until they are written in full, then run the same again",
            )
        self._shared.upload(manifest, sources)

    def _send(self, digest: str) -> None:
        if self._shared.is_whole(digest):
            return
        folder = self._folder(digest)
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        self._shared.upload(manifest, {name: folder / name for name in manifest.files})

    def _fetch(self, digest: str) -> bool:
        """Bring an object here unless it is; False when no machine has it whole."""
        with self._one_at_a_time(digest):
            if self._is_intact_here(digest, deep=True):
                return True
            manifest = self._shared.manifest(digest)
            if manifest is None or not self._shared.is_whole(digest):
                return False
            with self.staging() as staged:
                folder = staged / "object"
                folder.mkdir()
                self._shared.download(manifest, folder)
                if read_folder(folder) != manifest:
                    log.warning("object %s came damaged, and is removed", digest[:12])
                    self._shared.discard(digest)
                    return False
                self._discard_here(digest)
                self._publish(folder, manifest)
        return True

    @contextmanager
    def _one_at_a_time(self, digest: str) -> Iterator[None]:
        self._locks.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_file(self._locks, f"fetch {digest}"), thread_local=False):
            yield
