"""Which processes came of which child, and ending them all, also those that walked away.

A mark in the environment is inherited by whatever a child starts, so that a grandchild is found
when it has left its parent, its group and its session. Knows nothing of what the processes do.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator

import psutil

log = logging.getLogger(__name__)

MARK = "INGOT_OFFSPRING"  # `<pid of the owner>-<random>`, one for each generation
PATIENCE_S = 10.0  # for the kernel to take away what was killed


def new_mark() -> str:
    """Give a mark that names this process as the owner of what carries it."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:12]}"


def marked(environment: dict[str, str], mark: str) -> dict[str, str]:
    """Give an environment that carries a mark beside those of the generations before."""
    older = environment.get(MARK)
    return {**environment, MARK: f"{older};{mark}" if older else mark}


def end_offspring(mark: str, root: int | None) -> None:
    """Kill a child and all that came of it, until nothing of it is left.

    More than once, because a tree may fork while it is walked.

    Args:
        mark: in the environment of the child.
        root: process id of the child while it runs: its tree counts even where the mark was wiped
            away. None once it has ended, as the number may be another's then.
    """
    tree = _tree(root)
    _end_all(lambda: [*tree, *_tree(root), *_carrying(lambda marks: mark in marks)])


def tree_rss_bytes(root: int) -> int:
    """Add up the resident memory of a process and of everything below it, in bytes."""
    total = 0
    for process in _tree(root):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def end_orphans() -> int:
    """Kill what outlived its owner, here or in an earlier run; gives how many were found."""
    return _end_all(lambda: _carrying(_has_dead_owner))


def _end_all(find: Callable[[], Iterable[psutil.Process]]) -> int:
    ended: set[int] = set()
    gives_up_at = time.monotonic() + PATIENCE_S
    while living := {process.pid: process for process in find() if _lives(process)}:
        for process in living.values():
            _kill(process)
        ended |= living.keys()
        if time.monotonic() > gives_up_at:  # in the kernel's hands, such as a lost network disk
            log.warning("killed, but still there: %s", sorted(living))
            break
        psutil.wait_procs(list(living.values()), timeout=0.5)
    return len(ended)


def _carrying(wanted: Callable[[list[str]], bool]) -> Iterator[psutil.Process]:
    """Find the processes of this user whose marks are the wanted ones."""
    for process in psutil.process_iter():
        try:
            marks = process.environ().get(MARK)
        except (psutil.Error, OSError):
            continue
        if marks and process.pid != os.getpid() and wanted(marks.split(";")):
            yield process


def _has_dead_owner(marks: list[str]) -> bool:
    """Tell whether an owner is gone; one whose number another process has now counts as there.

    Not told apart by the time of their start: that moves when somebody sets the clock. Marks that
    this process carries too are its own elders' business.
    """
    ours = os.environ.get(MARK, "").split(";")
    owners = [mark.partition("-")[0] for mark in marks if mark not in ours]
    return any(owner.isdecimal() and not _is_there(int(owner)) for owner in owners)


def _is_there(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _tree(pid: int | None) -> list[psutil.Process]:
    if pid is None:
        return []
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error as problem:
        log.debug("cannot kill %s: %s", process.pid, problem)
