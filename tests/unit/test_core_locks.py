"""A lock keeps threads and processes apart, and dies with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.core.locks import KernelLocks, lock_file
from tests.other_process import python

HOLD = """
import sys
from pathlib import Path
from tasks.core.locks import KernelLocks
locks = KernelLocks(lambda: Path(sys.argv[1]))
assert locks.acquire(sys.argv[2], "child")
print("held", flush=True)
sys.stdin.readline()
"""

COUNT = """
import sys, time
from pathlib import Path
from tasks.core.locks import KernelLocks
counter, folder, holder = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
locks = KernelLocks(lambda: folder)
sys.stdin.readline()
for _ in range(25):
    locks.acquire("counter", holder)
    count = int(counter.read_text())
    time.sleep(0.001)
    counter.write_text(str(count + 1))
    locks.release("counter", holder)
"""


@contextmanager
def another_process_holding(folder: Path, key: str) -> Iterator[subprocess.Popen[str]]:
    process = python(HOLD, str(folder), key)
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def locks(tmp_path: Path) -> KernelLocks:
    return KernelLocks(lambda: tmp_path)


def test_free_lock_is_taken_held_and_given_back(locks: KernelLocks) -> None:
    assert not locks.is_locked("key")
    assert locks.acquire("key", "me")
    assert locks.is_locked("key")
    assert locks.is_holder("key", "me")
    locks.release("key", "me")
    assert not locks.is_locked("key")
    assert not locks.is_holder("key", "me")


def test_own_lock_is_granted_again_and_freed_by_one_release(locks: KernelLocks) -> None:
    assert locks.acquire("key", "me")
    assert locks.acquire("key", "me")
    locks.release("key", "me")
    assert locks.acquire("key", "you", timeout_s=0)


def test_release_by_another_is_refused_and_changes_nothing(locks: KernelLocks) -> None:
    locks.acquire("key", "me")
    with pytest.raises(ValueError, match="No lock held by you"):
        locks.release("key", "you")
    assert locks.is_holder("key", "me")


def test_release_of_a_free_lock_is_refused(locks: KernelLocks) -> None:
    with pytest.raises(ValueError, match="No lock held by me"):
        locks.release("key", "me")


@pytest.mark.parametrize("keys", [("a", "b"), ("a.1", "a.2"), ("x/y", "x_y")])
def test_different_keys_do_not_wait_for_each_other(
    locks: KernelLocks, keys: tuple[str, str]
) -> None:
    assert locks.acquire(keys[0], "me", timeout_s=0)
    assert locks.acquire(keys[1], "you", timeout_s=0)


@pytest.mark.parametrize("timeout_s", [0, 0.2])
def test_wait_for_another_thread_ends_with_the_timeout(
    locks: KernelLocks, timeout_s: float
) -> None:
    locks.acquire("key", "me")
    answers: list[bool] = []
    thread = threading.Thread(
        target=lambda: answers.append(locks.acquire("key", "you", timeout_s)), daemon=True
    )
    thread.start()
    thread.join(30)
    assert answers == [False]
    assert locks.is_holder("key", "me")


@pytest.mark.parametrize("timeout_s", [0, 0.2])
def test_wait_for_another_process_ends_with_the_timeout(
    locks: KernelLocks, tmp_path: Path, timeout_s: float
) -> None:
    with another_process_holding(tmp_path, "key"):
        assert not locks.acquire("key", "me", timeout_s)
        assert not locks.is_holder("key", "me")
    assert locks.acquire("key", "me", timeout_s=30)


def test_lock_of_another_process_is_seen(locks: KernelLocks, tmp_path: Path) -> None:
    with another_process_holding(tmp_path, "key"):
        assert locks.is_locked("key")
        assert not locks.is_locked("other key")


def test_looking_does_not_take_the_lock(locks: KernelLocks, tmp_path: Path) -> None:
    assert not locks.is_locked("key")
    with another_process_holding(tmp_path, "key"):
        assert locks.is_locked("key")


def test_release_wakes_a_process_that_waits(locks: KernelLocks, tmp_path: Path) -> None:
    locks.acquire("key", "me")
    process = python(HOLD, str(tmp_path), "key")
    locks.release("key", "me")
    assert process.stdout.readline() == "held\n"
    process.communicate("done\n", timeout=60)
    assert process.returncode == 0


def test_killed_holder_frees_the_lock(locks: KernelLocks, tmp_path: Path) -> None:
    with another_process_holding(tmp_path, "key") as holder:
        holder.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        holder.wait()
        assert locks.acquire("key", "me", timeout_s=0)


def test_lock_taken_in_one_thread_is_given_back_from_another(
    locks: KernelLocks, tmp_path: Path
) -> None:
    taker = threading.Thread(target=locks.acquire, args=("key", "me"))
    taker.start()
    taker.join()
    locks.release("key", "me")
    with another_process_holding(tmp_path, "key"):
        assert locks.is_locked("key")


def test_waiting_for_another_process_is_not_holding(locks: KernelLocks, tmp_path: Path) -> None:
    with another_process_holding(tmp_path, "key"):
        waiter = threading.Thread(target=locks.acquire, args=("key", "me", 30), daemon=True)
        waiter.start()
        time.sleep(0.2)
        assert not locks.is_holder("key", "me")
        assert not locks.acquire("key", "me", timeout_s=0.2)
        with pytest.raises(ValueError, match="No lock held by me"):
            locks.release("key", "me")
    waiter.join(30)
    assert locks.is_holder("key", "me")


def test_folder_that_cannot_be_made_reserves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folders = [tmp_path / "file", tmp_path / "locks"]
    locks = KernelLocks(lambda: folders.pop(0))
    with pytest.raises(OSError, match="file"):
        locks.acquire("key", "me")
    assert locks.acquire("key", "you", timeout_s=0)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be unlinked on Windows")
def test_lock_file_stays_so_that_no_waiter_locks_an_unlinked_one(
    locks: KernelLocks, tmp_path: Path
) -> None:
    locks.acquire("key", "me")
    before = lock_file(tmp_path, "key").stat().st_ino
    locks.release("key", "me")
    assert lock_file(tmp_path, "key").stat().st_ino == before


def test_processes_hammering_one_counter_lose_no_increment(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    crowd = [python(COUNT, str(counter), str(tmp_path / "locks"), str(turn)) for turn in range(4)]
    for process in crowd:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in crowd:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert counter.read_text() == "100"


def test_threads_hammering_one_counter_lose_no_increment(locks: KernelLocks) -> None:
    counter = [0]

    def count(holder: str) -> None:
        for _ in range(50):
            assert locks.acquire("counter", holder)
            before = counter[0]
            time.sleep(0.0005)
            counter[0] = before + 1
            locks.release("counter", holder)

    crowd = [threading.Thread(target=count, args=(str(turn),)) for turn in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert counter == [200]
