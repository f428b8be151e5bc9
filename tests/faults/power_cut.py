"""What a power cut would have taken: every byte and every rename that nobody had synced.

A kill leaves the page cache alone, so after the kill the loss is done by hand: files written since
the start that no process synced are emptied, and renames whose folder nobody synced are undone.
That is the worst that a journalling file system may do; most do less.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from tests.faults.inside import identity, synced_contents
from tests.faults.points import Meeting

# Nothing depends on them: logs are read by people, locks are empty, the rest is thrown away.
EXPENDABLE = {"logs", "locks", "foundry-staging", "tmp"}


def cut_power(home: Path, meeting: Meeting, since_s: float) -> list[str]:
    """Take from a home what was not on the disk; gives what was lost.

    Args:
        home: of runs of which no process is left.
        meeting: where these runs wrote down what they synced and renamed.
        since_s: older files are on the disk by now.
    """
    return [*_undo_renames(home, meeting), *_empty_files(home, meeting, since_s)]


def _undo_renames(home: Path, meeting: Meeting) -> list[str]:
    undone = []
    renames = [entry for entry in meeting.entries() if entry["kind"] == "rename"]
    for entry in reversed(renames):
        source, target = Path(str(entry["source"])), Path(str(entry["target"]))
        was_there = bool(entry["replaced"])  # the old content is gone: nothing to go back to
        if was_there or not target.exists() or not source.parent.exists():
            continue
        if not _was_synced_after(target.parent, float(str(entry["at"])), meeting):
            target.rename(source)
            undone.append(f"rename to {target.relative_to(home)}")
    return undone


def _was_synced_after(folder: Path, when_s: float, meeting: Meeting) -> bool:
    inode = folder.stat().st_ino
    lines = meeting.synced.read_text().splitlines() if meeting.synced.exists() else []
    return any(ino == inode and at >= when_s for at, ino, _, _ in map(json.loads, lines))


def _empty_files(home: Path, meeting: Meeting, since_s: float) -> list[str]:
    synced = synced_contents(meeting)
    emptied = []
    for path in sorted(home.rglob("*")):
        status = path.lstat()
        inside = path.relative_to(home)
        if not stat.S_ISREG(status.st_mode) or status.st_mtime < since_s or not status.st_size:
            continue
        if EXPENDABLE & set(inside.parts) or identity(status) in synced:
            continue
        path.chmod(status.st_mode | stat.S_IWUSR)
        os.truncate(path, 0)
        path.chmod(status.st_mode)
        emptied.append(f"content of {inside}")
    return emptied
