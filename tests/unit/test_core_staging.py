"""What is being made belongs to a living process; what the dead left goes, or goes back."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.core.staging import PARTIAL, Staging
from tests.other_process import python

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

BUILD = """
import sys
from pathlib import Path
from tasks.core.staging import Staging
with Staging(Path(sys.argv[1]) / "runs", Path(sys.argv[1]) / "locks").folder() as folder:
    (folder / "model").write_text("half")
    print("building", flush=True)
    sys.stdin.readline()
"""

DIE_BETWEEN_THE_RENAMES = """
import os, sys
from pathlib import Path
from tasks.core.staging import Staging
staging = Staging(Path(sys.argv[1]) / "runs", Path(sys.argv[1]) / "locks")
with staging.folder() as folder:
    (folder / "run").mkdir()
    (folder / "run" / "report").write_text("new")
    rename, calls = Path.rename, []
    def once(self, target):
        calls.append(target)
        return os._exit(9) if len(calls) == 2 else rename(self, target)
    Path.rename = once
    staging.publish(folder / "run", Path(sys.argv[1]) / "runs" / "run")
"""


@contextmanager
def another_process_building(place: Path) -> Iterator[subprocess.Popen[str]]:
    process = python(BUILD, str(place))
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "runs", tmp_path / "locks")


def written(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "report").write_text(text)
    return folder


def test_folder_is_the_users_own_and_gone_at_the_end(staging: Staging, tmp_path: Path) -> None:
    with staging.folder() as folder:
        written(folder / "deep", "x")
        assert folder.parent == tmp_path / "runs"
        assert folder.name.endswith(PARTIAL)
        assert os.name == "nt" or stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert names(tmp_path / "runs") == []


def test_folder_of_a_living_process_stays_and_that_of_a_killed_one_goes(
    staging: Staging, tmp_path: Path
) -> None:
    with another_process_building(tmp_path) as builder:
        assert staging.sweep() == 0
        assert len(names(tmp_path / "runs")) == 1
        builder.send_signal(KILL)
        builder.wait()
        assert staging.sweep() == 1
    assert names(tmp_path / "runs") == []
    assert names(tmp_path / "locks" / "in-runs") == ["mutex"]


def test_own_folder_is_not_swept(staging: Staging) -> None:
    with staging.folder() as folder:
        assert staging.sweep() == 0
        assert folder.is_dir()


def test_finished_folders_are_never_swept(staging: Staging, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    written(tmp_path / "runs" / "run", "kept")
    written(tmp_path / "runs" / "nobodys.partial", "half")
    assert staging.sweep() == 1
    assert names(tmp_path / "runs") == ["run"]


def test_published_folder_replaces_the_older_one(staging: Staging, tmp_path: Path) -> None:
    target = tmp_path / "runs" / "run"
    for text in ("old", "new"):
        with staging.folder() as folder:
            staging.publish(written(folder / "run", text), target)
    assert (target / "report").read_text() == "new"
    assert names(tmp_path / "runs") == ["run"]


def test_older_folder_comes_back_when_the_new_one_cannot_take_its_place(
    staging: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "runs" / "run"
    with staging.folder() as folder:
        staging.publish(written(folder / "run", "old"), target)
    rename = Path.rename

    def full(self: Path, to: Path) -> Path:
        if to == target and self.name == "run":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", full)
    with staging.folder() as folder, pytest.raises(OSError, match="No space left"):
        staging.publish(written(folder / "run", "new"), target)
    assert (target / "report").read_text() == "old"
    assert names(tmp_path / "runs") == ["run"]


def test_folder_that_a_killed_process_was_replacing_comes_back(
    staging: Staging, tmp_path: Path
) -> None:
    target = tmp_path / "runs" / "run"
    with staging.folder() as folder:
        staging.publish(written(folder / "run", "old"), target)
    process = python(DIE_BETWEEN_THE_RENAMES, str(tmp_path))
    process.communicate()
    assert process.returncode == 9
    assert not target.exists()
    assert staging.sweep() == 2
    assert (target / "report").read_text() == "old"
    assert names(tmp_path / "runs") == ["run"]
