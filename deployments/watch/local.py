"""A folder of this machine, or of a mounted share, in which checkpoints land.

Reads names, sizes and times; what is in the files is admission's to judge.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.watch.digest import read_checkpoint
from deployments.watch.sighting import READY, Haste, Landed, Sighting, checkpoint_folders
from flows.preflight import QUESTIONS_NAME
from tasks.checkpoint.admit import choose_name
from tasks.core.errors import InputError, ResourceBusy


@dataclass(frozen=True)
class Snapshot:
    """All that is below a folder, in one word, and what says that it is done."""

    signature: str
    haste: Haste


class LocalPlace:
    """A watched folder.

    Args:
        root: the folder; absolute and free of symbolic links.
        name: what every release is called; None to call it after its folder.
        ignored: told once of each link to a folder, which is not followed.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str | None = None,
        quiet_s: float = 5.0,
        every_s: float = 10.0,
        ignored: Callable[[Path], None] = lambda _path: None,
    ) -> None:
        self.root = root
        self.address = str(root)
        self.quiet_s = quiet_s
        self.every_s = every_s
        self._name = name
        self._tell_ignored = ignored
        self._ignored: set[Path] = set()

    def require_fit(self) -> None:
        """Refuse what cannot be watched.

        Raises:
            InputError: no such folder, or it is itself a checkpoint.
        """
        if not self.root.is_dir():
            raise InputError(
                f"{self.root} is not a folder",
                expected="a folder in which checkpoints land, as NAME/ or NAME/ANYTHING/",
                next_step="make it, or check the spelling",
            )
        if (self.root / "config.json").is_file():
            raise InputError(
                f"{self.root} is itself a checkpoint",
                expected="the folder in which checkpoints land",
                next_step=f"watch {self.root.parent}, or release this one: `ingot release "
                f"{self.root}`",
            )

    def look(self) -> list[Sighting]:
        """Give the checkpoint folders as they are now.

        Raises:
            OSError: the watched folder cannot be read.
        """
        files: dict[str, set[str]] = {}
        for top in self._folders(self.root):
            files[top.name] = _files(top)
            for folder in self._folders(top):
                files[f"{top.name}/{folder.name}"] = _files(folder)
        return [self._sight(name) for name in checkpoint_folders(files)]

    def take_in(self, sighting: Sighting) -> Landed:
        """Check a checkpoint and hash it; see `Place.take_in`."""
        folder = Path(sighting.key)
        with _unchanged(sighting):
            name = choose_name(self._name, Path(sighting.named_after))
            inspection, digest = read_checkpoint(folder)
        return Landed(
            path=folder,
            name=name,
            digest=digest,
            size_bytes=inspection.weights.size_bytes,
            has_questions=any((at / QUESTIONS_NAME).is_file() for at in (folder, folder.parent)),
        )

    def _sight(self, name: str) -> Sighting:
        folder = self.root / name
        snapshot = take_snapshot(folder)
        return Sighting(str(folder), name.partition("/")[0], snapshot.signature, snapshot.haste)

    def _folders(self, folder: Path) -> list[Path]:
        """List the folders in a folder; links to folders are told of once, and not followed."""
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            if folder == self.root:
                raise
            return []
        found = []
        for entry in entries:
            if not entry.is_dir():
                continue
            if not entry.is_symlink():
                found.append(entry)
            elif folder == self.root and entry not in self._ignored:
                self._ignored.add(entry)
                self._tell_ignored(entry)
        return found


def take_snapshot(folder: Path) -> Snapshot:
    """Take down name, size and times of change of every file below a folder.

    Of questions beside it only that they are there: they are those of many checkpoints.

    The time of the inode's change is among them, because copying may set the other one to
    anything; it is what the kernel wrote last, and no program can set it.
    """
    lines, changed = [], {}
    for name, path in sorted(_walk(folder)):
        try:
            state = path.lstat()  # of a link, not of what it leads to: that is none of its files
        except OSError as problem:
            lines.append(f"{name}\0{problem.errno}")
            continue
        changed[name] = state.st_ctime_ns
        lines.append(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}")
    if (folder.parent / QUESTIONS_NAME).is_file():
        lines.append(f"../{QUESTIONS_NAME}")
    signature = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    return Snapshot(signature, _haste(folder, changed))


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Give the files below a folder; links to folders are files here, and are not walked."""
    for at, folders, names in os.walk(folder):
        for path in (Path(at, name) for name in [*folders, *names]):
            if path.is_symlink() or not path.is_dir():
                yield path.relative_to(folder).as_posix(), path


def _haste(folder: Path, changed: dict[str, int]) -> Haste:
    """Find what says that the folder is done.

    A READY that was written before other files was copied with them, in the order of their names,
    and says nothing yet. A rename changes the folder's own inode and nothing in it (measured on
    ext4 and tmpfs): the folder is then younger than all that it holds, and than its own list of
    names, which a folder that is being filled never is. `cp -p` and rsync leave the same trace,
    with their last act on the folder.
    """
    others = [when for name, when in changed.items() if name != READY]
    if READY in changed and changed[READY] >= max(others, default=0):
        return Haste.READY
    try:
        own = folder.stat()
    except OSError:
        return Haste.NONE
    if changed and own.st_ctime_ns > max(*changed.values(), own.st_mtime_ns):
        return Haste.RENAMED
    return Haste.NONE


def _files(folder: Path) -> set[str]:
    """Give the names of the files in a folder; one that cannot be read may be a checkpoint."""
    try:
        return {entry.name for entry in folder.iterdir() if not entry.is_dir()}
    except FileNotFoundError:
        return set()
    except OSError:
        return {READY}


@contextmanager
def _unchanged(sighting: Sighting) -> Iterator[None]:
    """Let nothing be said of a folder that is not what was seen, before and after it is read."""

    def require_same() -> None:
        if take_snapshot(Path(sighting.key)).signature != sighting.signature:
            raise ResourceBusy(f"{sighting.key} changed while it was read")

    require_same()
    try:
        yield
    except Exception:
        require_same()
        raise
    require_same()
