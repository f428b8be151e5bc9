"""Readers see the old file or the new one, whatever happens to the writer."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.core.files import (
    digest_of,
    folder_bytes,
    sha256_file,
    sync_file,
    sync_folder,
    write_text_atomically,
)

DIE_BEFORE_THE_RENAME = """
import os, sys
from pathlib import Path
from tasks.core.files import write_text_atomically
Path.replace = lambda *_: os._exit(9)
write_text_atomically(Path(sys.argv[1]), "new")
"""


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def test_written_text_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "ledger.json"
    write_text_atomically(file, "größer\n")
    assert file.read_bytes() == "größer\n".encode()
    assert names(file.parent) == ["ledger.json"]


@pytest.mark.parametrize("call", [(os, "fsync"), (Path, "replace")], ids=["fsync", "rename"])
def test_failed_write_keeps_the_old_text_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[object, str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "ledger.json"
    file.write_text("old")
    monkeypatch.setattr(*call, full)
    with pytest.raises(OSError, match="No space left"):
        write_text_atomically(file, "new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["ledger.json"]


def test_crash_before_the_rename_keeps_the_old_text(tmp_path: Path) -> None:
    file = tmp_path / "ledger.json"
    file.write_text("old")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DIE_BEFORE_THE_RENAME, str(file)]
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    assert file.read_text() == "old"
    write_text_atomically(file, "newer")
    assert file.read_text() == "newer"


def test_threads_writing_one_file_at_once_leave_one_whole_text(tmp_path: Path) -> None:
    file, faults = tmp_path / "ledger.json", []
    texts = [str(turn) * 100_000 for turn in range(8)]

    def write(text: str) -> None:
        try:
            write_text_atomically(file, text)
        except OSError as problem:
            faults.append(problem)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert file.read_text() in texts
    assert names(tmp_path) == ["ledger.json"]


def test_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"bytes").hexdigest()


def test_digest_of_pairs_does_not_depend_on_their_order() -> None:
    pairs = [("b", "2"), ("a", "1")]
    assert digest_of(pairs) == digest_of(reversed(pairs))


@pytest.mark.parametrize(
    "other",
    [
        [],
        [("a", "1")],
        [("a", "2"), ("b", "1")],
        [("a", "1"), ("c", "2")],
        [("a1", ""), ("b", "2")],
    ],
)
def test_digest_of_pairs_depends_on_every_name_and_digest(other: list[tuple[str, str]]) -> None:
    assert digest_of(other) != digest_of([("a", "1"), ("b", "2")])


def test_digest_of_pairs_is_the_one_that_stores_out_there_were_named_by() -> None:
    expected = hashlib.sha256(b"a\x001\nb\x002\n").hexdigest()
    assert digest_of([("b", "2"), ("a", "1")]) == expected


def test_read_only_file_and_folder_can_be_synced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    if os.name != "nt":
        file.chmod(0o444)
    sync_file(file)
    sync_folder(tmp_path)


def test_folder_bytes_adds_up_nested_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "deep" / "b").write_bytes(b"4567")
    assert folder_bytes(tmp_path) == 7
