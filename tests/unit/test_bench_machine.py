"""What a benchmark says of the sources that it measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import machine


def git(folder: Path, *arguments: str) -> None:
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *own, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("tasks/step.py", "docs/benchmarks.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("before\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    return tmp_path


def test_page_that_was_written_leaves_the_sources_as_committed(checkout: Path) -> None:
    committed = machine.revision()
    (checkout / "docs/benchmarks.md").write_text("after\n")
    assert machine.revision() == committed
    assert len(committed) == 12


@pytest.mark.parametrize("name", ["tasks/step.py", "tasks/new.py"])
def test_source_that_was_changed_is_told(checkout: Path, name: str) -> None:
    (checkout / name).write_text("after\n")
    assert machine.revision().endswith("-dirty")


def test_folder_without_commits_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.revision() == "unknown"
