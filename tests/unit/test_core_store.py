"""What the store shows is whole, stays as it was published, and survives a crash half-way."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.errors import ToolFailed
from tasks.core.store import MANIFEST, Store

FILES = {"model.onnx": b"graph", "model.onnx.data": b"weights" * 1000, "extra/vocab.json": b"{}"}


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def publish(store: Store, files: dict[str, bytes] = FILES) -> str:
    with store.staging() as staged:
        return store.publish(fill(staged, files))


def visible(root: Path) -> list[str]:
    return sorted(entry.name for entry in (root / "objects").glob("*"))


def staged_folders(root: Path) -> list[Path]:
    return list((root / "tmp").glob("*"))


def overwrite(file: Path, content: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(content)


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_published_object_is_intact_and_has_every_byte(store: Store) -> None:
    folder = store.path(publish(store))
    assert store.is_intact(folder.name, deep=True)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_nothing_is_visible_until_the_one_rename(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, seen = Path.rename, []

    def watched(self: Path, target: Path) -> Path:
        seen.append(visible(tmp_path))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    digest = publish(store)
    assert seen == [[]]
    assert visible(tmp_path) == [digest]


def test_same_content_twice_is_one_object(store: Store, tmp_path: Path) -> None:
    assert publish(store) == publish(store)
    assert len(visible(tmp_path)) == 1
    assert staged_folders(tmp_path) == []


@pytest.mark.parametrize(
    "other",
    [
        {**FILES, "model.onnx": b"grapf"},
        {**FILES, "empty": b""},
        {"model.onnx": b"graph", "renamed.data": b"weights" * 1000, "extra/vocab.json": b"{}"},
        {"model.onnx": b"graph", "model.onnx.data": b"weights" * 1000, "vocab.json": b"{}"},
        {**FILES, f"extra/{MANIFEST}": b"{}"},
    ],
    ids=["byte", "file", "name", "folder", "nested manifest"],
)
def test_digest_depends_on_every_name_and_byte(store: Store, other: dict[str, bytes]) -> None:
    assert publish(store, other) != publish(store)


def test_digest_does_not_depend_on_the_order_of_writing(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    assert publish(other, dict(reversed(FILES.items()))) == publish(store)


def test_published_files_are_read_only(store: Store) -> None:
    folder = store.path(publish(store))
    modes = [entry.stat().st_mode for entry in folder.rglob("*") if entry.is_file()]
    assert len(modes) == len(FILES) + 1
    assert not any(mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) for mode in modes)


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no read-only file")
def test_removed_object_leaves_the_links_to_its_files_read_only(
    store: Store, tmp_path: Path
) -> None:
    digest = publish(store)
    file = next(entry for entry in store.path(digest).rglob("*") if entry.is_file())
    link = tmp_path / "link"
    link.hardlink_to(file)
    store.discard(digest)
    assert not link.stat().st_mode & stat.S_IWUSR


def test_failed_build_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def build_half() -> None:
        with store.staging() as staged:
            fill(staged, FILES)
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        build_half()
    assert visible(tmp_path) == staged_folders(tmp_path) == []


def test_build_that_publishes_nothing_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with store.staging() as staged:
        fill(staged, FILES)
    assert visible(tmp_path) == staged_folders(tmp_path) == []


def truncate(folder: Path) -> None:
    overwrite(folder / "model.onnx.data", b"weights" * 999)


def lose_file(folder: Path) -> None:
    (folder / "extra/vocab.json").unlink()


def lose_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut_manifest(folder: Path) -> None:
    overwrite(folder / MANIFEST, (folder / MANIFEST).read_bytes()[:-20])


def empty_manifest(folder: Path) -> None:
    overwrite(folder / MANIFEST, b'{"files": []}')


def swap_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    overwrite(folder / MANIFEST, text.replace(folder.name, "0" * 64).encode())


def file_became_folder(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


DAMAGES = [
    truncate,
    lose_file,
    lose_manifest,
    cut_manifest,
    empty_manifest,
    swap_manifest,
    file_became_folder,
    shutil.rmtree,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_seen_at_a_glance(store: Store, damage: Callable[[Path], None]) -> None:
    digest = publish(store)
    damage(store.path(digest))
    assert not store.is_intact(digest)
    assert not store.is_intact(digest, deep=True)


def test_changed_byte_is_seen_by_hashing(store: Store) -> None:
    digest = publish(store)
    overwrite(store.path(digest) / "model.onnx", b"grapf")
    assert store.is_intact(digest)
    assert not store.is_intact(digest, deep=True)


def test_changed_byte_with_an_adjusted_manifest_is_seen_by_hashing(store: Store) -> None:
    digest, other = publish(store), publish(store, {**FILES, "model.onnx": b"grapf"})
    text = (store.path(other) / MANIFEST).read_text().replace(other, digest)
    overwrite(store.path(digest) / "model.onnx", b"grapf")
    overwrite(store.path(digest) / MANIFEST, text.encode())
    assert not store.is_intact(digest, deep=True)


def test_file_too_many_is_seen_by_hashing(store: Store) -> None:
    digest = publish(store)
    (store.path(digest) / "adapter.onnx").write_bytes(b"injected")
    assert not store.is_intact(digest, deep=True)


def test_object_that_was_never_published_is_not_intact(store: Store) -> None:
    assert not store.is_intact("0" * 64)


@pytest.mark.parametrize("damage", DAMAGES)
def test_publishing_again_heals(
    store: Store, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    digest = publish(store)
    damage(store.path(digest))
    assert publish(store) == digest
    assert store.is_intact(digest, deep=True)
    assert staged_folders(tmp_path) == []


def test_healing_survives_another_process_that_heals_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = publish(store)
    truncate(store.path(digest))
    discard = store.discard

    def lose_the_race(name: str) -> None:
        discard(name)
        monkeypatch.undo()
        publish(store)

    monkeypatch.setattr(store, "discard", lose_the_race)
    assert publish(store) == digest
    assert store.is_intact(digest, deep=True)


def test_discarded_object_is_gone_and_a_second_discard_is_harmless(
    store: Store, tmp_path: Path
) -> None:
    digest = publish(store)
    store.discard(digest)
    store.discard(digest)
    assert visible(tmp_path) == staged_folders(tmp_path) == []


def test_discard_leaves_what_a_planted_link_points_to(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    outside.chmod(0o444)
    digest = publish(store)
    (store.path(digest) / "link").symlink_to(outside)
    (store.path(digest) / "dangling").symlink_to(tmp_path / "nowhere")
    store.discard(digest)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o444


def test_link_out_of_the_folder_is_refused(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "checkpoint.json"
    outside.write_bytes(b"{}")
    with store.staging() as staged:
        (fill(staged, FILES) / "config.json").symlink_to(outside)
        with pytest.raises(ToolFailed, match=r"config\.json is a symbolic link"):
            store.publish(staged)
    assert visible(tmp_path) == []
    assert outside.stat().st_mode & stat.S_IWUSR


@pytest.mark.parametrize("call", ["fsync", "rename", "write"])
def test_full_disk_leaves_nothing_visible(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"fsync": (os, "fsync"), "rename": (Path, "rename"), "write": (Path, "write_text")}
    with monkeypatch.context() as patched:
        patched.setattr(*target[call], full)
        with pytest.raises(OSError, match="No space left"):
            publish(store)
    assert visible(tmp_path) == staged_folders(tmp_path) == []
    assert store.is_intact(publish(store), deep=True)


PUBLISH = """
import sys
from pathlib import Path
from tasks.core.store import Store
store = Store(Path(sys.argv[1]))
sys.stdin.readline()
for turn in range(20):
    with store.staging() as staged:
        for name in ("a", "b"):
            (staged / name).write_bytes(name.encode() * 100_000 + bytes([turn]))
        print(store.publish(staged))
"""


def test_processes_publishing_the_same_content_at_once_agree(store: Store, tmp_path: Path) -> None:
    processes = [python(PUBLISH, str(tmp_path)) for _ in range(3)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert answers[0] == answers[1] == answers[2]
    assert sorted(answers[0]) == visible(tmp_path)
    assert all(store.is_intact(digest, deep=True) for digest in answers[0])
    assert staged_folders(tmp_path) == []


def test_threads_healing_the_same_object_at_once_agree(store: Store) -> None:
    digest, faults = publish(store), []

    def heal() -> None:
        try:
            publish(store)
        except OSError as problem:
            faults.append(problem)

    for _ in range(10):
        truncate(store.path(digest))
        threads = [threading.Thread(target=heal) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.is_intact(digest, deep=True)
    assert faults == []


BUILD = """
import sys
from pathlib import Path
from tasks.core.store import Store
with Store(Path(sys.argv[1])).staging() as staged:
    (staged / "half").write_bytes(b"x")
    print(staged, flush=True)
    sys.stdin.readline()
"""


def builds(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that builds in the store until it is told to end."""
    builder = python(BUILD, str(folder))
    return builder, Path(builder.stdout.readline().strip())


def kill(builder: subprocess.Popen[str]) -> None:
    builder.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    builder.communicate()


def test_sweep_removes_a_dead_builder_s_folder_but_not_a_living_one_s(
    store: Store, tmp_path: Path
) -> None:
    (dead, left), (living, busy) = builds(tmp_path), builds(tmp_path)
    kill(dead)
    assert left.exists()
    with store.staging() as own:
        assert store.sweep() == 1
        assert set(staged_folders(tmp_path)) == {busy, own}
    living.communicate("done\n")
    assert staged_folders(tmp_path) == []


def test_folder_of_a_container_that_is_gone_is_removed(store: Store, tmp_path: Path) -> None:
    """Named by an older Ingot after its host, which no other container is called after."""
    foreign = tmp_path / "tmp" / "3f2a9c81d0e4-17-0123456789ab"
    fill(foreign, FILES)
    assert store.sweep() == 1
    assert not foreign.exists()


def test_container_of_the_same_name_keeps_what_another_builds(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the host's name nor a process id has a say: both come again in containers."""
    living, busy = builds(tmp_path)
    monkeypatch.setattr("psutil.pid_exists", lambda _pid: False)  # in a namespace of its own
    assert store.sweep() == 0
    assert busy.exists()
    living.communicate("done\n")


def test_container_removes_what_a_dead_one_left_whose_process_id_lives_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, left = builds(tmp_path)
    kill(dead)
    monkeypatch.setattr("psutil.pid_exists", lambda _pid: True)
    assert store.sweep() == 1
    assert not left.exists()


def test_nothing_of_the_dead_stays_in_the_store(store: Store, tmp_path: Path) -> None:
    for dead, _ in [builds(tmp_path), builds(tmp_path)]:
        kill(dead)
    assert store.sweep() == 2
    assert [file.name for file in (tmp_path / "locks").iterdir()] == ["mutex"]
    assert store.sweep() == 0
