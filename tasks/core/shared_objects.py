"""Store objects on a shared folder or at a URL, behind fsspec; complete when the manifest is there.

Object storage has no rename, so the manifest is written last and taken away first: what has none
does not exist. Knows nothing of where objects lie on this machine.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tasks.core.addresses import require_plain_address
from tasks.core.errors import DoesNotFit, EnvironmentUnfit, ResourceBusy, named
from tasks.core.files import digest_of
from tasks.core.store import MANIFEST, Manifest

log = logging.getLogger(__name__)

_OPTIONS = {"file": {"auto_mkdir": True}}
_REFUSALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")


def shared_url(shared: str) -> str:
    """Give the URL of a shared folder or address; a folder becomes `file:///...`.

    Raises:
        InputError: it holds credentials, which would be shown, or says nothing else.
    """
    if "://" not in shared:
        return f"file://{Path(shared).expanduser().absolute().as_posix()}"
    require_plain_address(shared, "INGOT_SHARED")
    return shared.rstrip("/")


class SharedObjects:
    """Objects by digest below `<url>/objects/`.

    Args:
        url: of a file system that fsspec knows; credentials are the environment's.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def is_whole(self, digest: str) -> bool:
        """Tell whether an object is there with all its files, by their sizes."""
        manifest = self.manifest(digest)
        if manifest is None:
            return False
        sizes = self._sizes(digest)
        wrong = [n for n, (size, _) in manifest.files.items() if sizes.get(n) != size]
        if wrong:
            log.warning("object %s in %s is damaged: %s", digest[:12], self._url, wrong[0])
        return not wrong

    def manifest(self, digest: str) -> Manifest | None:
        """Give what an object promises; None when it is not there, or promises something else."""
        with self._reached() as (files, root):
            try:
                text = files.cat_file(f"{root}/{digest}/{MANIFEST}")
            except FileNotFoundError:
                return None
        try:
            manifest = Manifest.model_validate_json(text)
        except ValueError:
            log.warning("the manifest of object %s in %s cannot be read", digest[:12], self._url)
            return None
        named_digests = ((name, sha256) for name, (_, sha256) in manifest.files.items())
        if manifest.digest != digest or digest_of(named_digests) != digest:
            log.warning("the manifest at %s in %s is another object's", digest[:12], self._url)
            return None
        if unsafe := [name for name in manifest.files if not _stays_inside(name)]:
            log.warning("object %s in %s has a file %r", digest[:12], self._url, unsafe[0])
            return None
        return manifest

    def upload(self, manifest: Manifest, sources: Mapping[str, Path]) -> None:
        """Put an object there unless it is; what an interrupted upload left is made use of.

        Raises:
            ResourceBusy: the address does not answer, or did not keep what was sent.
            EnvironmentUnfit: it refuses this machine.
        """
        digest = manifest.digest
        if self.is_whole(digest):
            return
        with self._reached() as (files, root):
            folder = f"{root}/{digest}"
            _remove(files, f"{folder}/{MANIFEST}")
            there = self._sizes(digest)
            for name, (size, _) in manifest.files.items():
                if there.get(name) != size:
                    _put(files, sources[name], f"{folder}/{name}")
            kept = self._sizes(digest)
            if lost := [n for n, (size, _) in manifest.files.items() if kept.get(n) != size]:
                raise ResourceBusy(f"{self._url} did not keep {lost[0]} of object {digest[:12]}")
            _pipe(files, f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1).encode())

    def download(self, manifest: Manifest, folder: Path) -> None:
        """Copy an object's files into a folder; whoever calls looks at what came.

        Raises:
            ResourceBusy, EnvironmentUnfit: as for `upload`.
            DoesNotFit: this machine's disk is full.
        """
        with self._reached() as (files, root):
            for name in manifest.files:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                files.get_file(f"{root}/{manifest.digest}/{name}", str(target))

    def discard(self, digest: str) -> None:
        """Remove an object; its manifest goes first, so that no part of it is ever seen."""
        with self._reached() as (files, root):
            _remove(files, f"{root}/{digest}/{MANIFEST}")
            with contextlib.suppress(FileNotFoundError):
                files.rm(f"{root}/{digest}", recursive=True)

    def _sizes(self, digest: str) -> dict[str, int]:
        with self._reached() as (files, root):
            folder = f"{root}/{digest}"
            try:
                found = files.find(folder, detail=True)
            except FileNotFoundError:
                return {}
        # Windows' paths come with a drive and slashes of either kind.
        start = len(folder) + 1
        return {name[start:]: int(entry["size"]) for name, entry in found.items()}

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """Give the file system and the folder of objects; its errors come out as ours."""
        import fsspec

        try:
            scheme = urlsplit(self._url).scheme
            # No listing is remembered: other machines write here too.
            files, root = fsspec.core.url_to_fs(
                self._url, use_listings_cache=False, **_OPTIONS.get(scheme, {})
            )
            yield files, f"{root.rstrip('/')}/objects"
        except (DoesNotFit, EnvironmentUnfit, ResourceBusy):
            raise
        except Exception as problem:
            raise self._as_ours(problem) from problem

    def _as_ours(self, problem: Exception) -> Exception:
        if isinstance(known := named(problem), DoesNotFit):
            return known
        here, kind = socket.gethostname(), type(problem).__name__
        if isinstance(problem, ImportError | ValueError):
            return EnvironmentUnfit(
                f"the shared store {self._url} cannot be used: {problem}",
                next_step="python make.py cluster",
            )
        if isinstance(problem, PermissionError | FileNotFoundError) or kind in _REFUSALS:
            return EnvironmentUnfit(
                f"the shared store {self._url} refuses {here}: {kind}: {problem}",
                next_step="see that it exists and that this machine has the right to it",
            )
        return ResourceBusy(
            f"the shared store {self._url} cannot be reached from {here}: {kind}: {problem}"
        )


def _put(files: Any, source: Path, target: str) -> None:
    if not _is_folder(files):
        files.put_file(str(source), target)
        return
    # A folder's file grows while it is written; a rename makes it whole, as an upload to S3 is.
    partial = f"{target}.{uuid.uuid4().hex[:12]}.partial"
    try:
        files.put_file(str(source), partial)
        Path(partial).replace(target)
    finally:
        Path(partial).unlink(missing_ok=True)


def _pipe(files: Any, target: str, content: bytes) -> None:
    if not _is_folder(files):
        files.pipe_file(target, content)
        return
    partial = Path(f"{target}.{uuid.uuid4().hex[:12]}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(content)
    partial.replace(target)


def _remove(files: Any, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.rm_file(path)


def _is_folder(files: Any) -> bool:
    return "file" in files.protocol


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    odd = not path.parts or path.is_absolute() or ".." in path.parts
    return not odd and not any(mark in name for mark in ("\\", ":", "\x00"))
