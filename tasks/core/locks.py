"""A lock by name that its holder cannot take to the grave: the kernel frees it.

Prefect's own file locks stay after a SIGKILL and hang the next run for ever (measured, 3.8.8), so
this one sits on the operating system's. Knows nothing of what is locked.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.core.errors import ResourceBusy

CLAIM = ".lock"
MUTEX = "mutex"
MUTEX_WAIT_S = 120.0  # it is held for milliseconds
_MUTEX_POLL_S = 0.01


def lock_file(folder: Path, key: str) -> Path:
    """Give the file that stands for a key."""
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.lock"


@dataclass
class _Hold:
    holder: str
    lock: FileLock
    granted: bool = False  # reserved in this process, but another process may still have it


class KernelLocks:
    """Locks by key, each held by one named holder of one process.

    Args:
        folder: gives the folder of the lock files; asked at each use, so that the settings of the
            moment count.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._held: dict[str, _Hold] = {}
        self._mutex = threading.Condition()

    def acquire(self, key: str, holder: str, timeout_s: float | None = None) -> bool:
        """Take a lock; waits for ever by default.

        Taking one's own lock again is granted, and one release frees it all the same.
        """
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        with self._mutex:
            if not self._mutex.wait_for(lambda: self._may_take(key, holder), timeout_s):
                return False
            if key in self._held:
                return True
            # Reserved before the wait on other processes, so that threads here queue up too.
            hold = self._held[key] = _Hold(holder, self._lock(key))
        try:
            hold.lock.acquire(timeout=-1 if ends_at is None else max(0, ends_at - time.monotonic()))
        except Timeout:
            self._forget(key)
            return False
        except BaseException:
            self._forget(key)
            raise
        with self._mutex:
            hold.granted = True
            self._mutex.notify_all()
        return True

    def release(self, key: str, holder: str) -> None:
        """Give a lock back.

        Raises:
            ValueError: this holder does not have it.
        """
        if not self.is_holder(key, holder):
            raise ValueError(f"No lock held by {holder} for transaction with key {key}")
        self._held[key].lock.release()
        self._forget(key)

    def is_locked(self, key: str) -> bool:
        """Tell whether anybody holds the lock, here or in another process."""
        if key in self._held:
            return True
        lock = self._lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def is_holder(self, key: str, holder: str) -> bool:
        """Tell whether this holder has the lock."""
        held = self._held.get(key)
        return held is not None and held.granted and held.holder == holder

    def _may_take(self, key: str, holder: str) -> bool:
        return key not in self._held or self.is_holder(key, holder)

    def _lock(self, key: str) -> FileLock:
        folder = self._folder()
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(lock_file(folder, key), thread_local=False)

    def _forget(self, key: str) -> None:
        with self._mutex:
            self._held.pop(key, None)
            self._mutex.notify_all()


class Claims:
    """Names in a folder that living processes hold; one that dies holds them no longer.

    Each is a file under a kernel lock. Process ids are used again, host names change with each
    container and clocks jump: none of them has a say in who lives.

    Args:
        folder: made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def mutex(self) -> Iterator[None]:
        """Keep everybody else from claiming and from clearing away; for a moment only.

        Raises:
            OSError: the folder cannot be made or written.
            ResourceBusy: a process that holds it has been stopped.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._folder / MUTEX, thread_local=False)
        try:
            lock.acquire(timeout=MUTEX_WAIT_S, poll_interval=_MUTEX_POLL_S)
        except Timeout as problem:
            raise ResourceBusy(
                f"another process has held {lock.lock_file} for {MUTEX_WAIT_S:.0f} s",
                next_step="end the process that is stopped in the middle of its work",
            ) from problem
        try:
            yield
        finally:
            lock.release()

    def take(self, name: str) -> FileLock:
        """Claim a new name, under the mutex; it is given back by `give_back`."""
        lock = FileLock(self._file(name), thread_local=False)
        lock.acquire(timeout=0)
        return lock

    def give_back(self, name: str, lock: FileLock) -> None:
        """Let go of a name that this process has."""
        lock.release()
        self._unlink(name)

    def is_held(self, name: str) -> bool:
        """Tell whether a living process holds a name; this one counts too."""
        if not self._file(name).exists():
            return False
        probe = FileLock(self._file(name), thread_local=False)
        try:
            probe.acquire(timeout=0)
        except Timeout:
            return True
        probe.release()
        return False

    def forget(self, name: str) -> None:
        """Clear a name away that nobody holds any more; under the mutex."""
        self._unlink(name)

    def names(self) -> set[str]:
        """Give the names that are or were held."""
        with contextlib.suppress(FileNotFoundError):
            return {file.stem for file in self._folder.iterdir() if file.suffix == CLAIM}
        return set()

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}{CLAIM}"

    def _unlink(self, name: str) -> None:
        # Windows unlinks no file that another process is looking at; the next one clears it away.
        with contextlib.suppress(OSError):
            self._file(name).unlink()
