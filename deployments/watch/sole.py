"""One watcher at a time for each journal and each watched place, as long as its process lives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.core.errors import ResourceBusy
from tasks.core.files import make_private_folder
from tasks.core.locks import KernelLocks
from tasks.core.settings import Settings

_HOLDER = "ingot watch"


@contextmanager
def sole_watcher(settings: Settings, places: Sequence[str]) -> Iterator[None]:
    """Be the only watcher of this INGOT_HOME, and on this machine of these places.

    Raises:
        ResourceBusy: another one is running.
    """
    make_private_folder(settings.machine)
    claims = [
        (settings.home / "watch" / "locks", str(settings.home)),
        *((settings.machine / "watch", place) for place in places),
    ]
    with ExitStack() as held:
        for folder, what in claims:
            held.enter_context(_claim(folder, what))
        yield


@contextmanager
def _claim(folder: Path, what: str) -> Iterator[None]:
    locks = KernelLocks(lambda: folder)
    if not locks.acquire(what, _HOLDER, timeout_s=0):
        raise ResourceBusy(
            f"another `ingot watch` is at {what} already",
            next_step="leave it running, and give it all places to watch in one command; or stop "
            "it first",
        )
    try:
        yield
    finally:
        locks.release(what, _HOLDER)
