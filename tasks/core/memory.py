"""Memory that this process may use, a container's bound included.

psutil reads the whole machine's memory, also inside a container that may use a part of it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes in all, and bytes that can be had without swapping."""

    total_bytes: int
    available_bytes: int


def read_memory() -> Memory:
    """Give this process's memory: the machine's, or less where a control group says so."""
    machine = psutil.virtual_memory()
    found = Memory(machine.total, machine.available)
    if sys.platform == "linux":
        for folder in control_groups(Path("/proc/self/cgroup"), _CGROUP_ROOT):
            found = bounded(found, folder)
    return found


def control_groups(membership: Path, root: Path) -> list[Path]:
    """List this process's version 2 control group and those around it, innermost first."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        if line.startswith("0::"):
            inner = root / line.removeprefix("0::").strip().lstrip("/")
            return [inner, *(folder for folder in inner.parents if folder.is_relative_to(root))]
    return []


def bounded(memory: Memory, group: Path) -> Memory:
    """Apply one control group's bound, if it has one."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        statistics = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return memory  # not a version 2 group, or the root, which has no bound
    if limit == "max":
        return memory
    # The page cache counts as used, and is given back when asked for.
    reclaimable = sum(
        int(line.split()[1]) for line in statistics if line.startswith("inactive_file")
    )
    left = max(0, int(limit) - max(0, used - reclaimable))
    return Memory(min(memory.total_bytes, int(limit)), min(memory.available_bytes, left))
