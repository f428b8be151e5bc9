"""Nothing that a child has started outlives it, wherever it has gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pydantic import BaseModel

from tasks.core import child as children
from tasks.core.child import children_stopped_on_interrupt, run_child, stop_children
from tasks.core.errors import ChildTimedOut, DoesNotFit, EnvironmentUnfit, TransientFault
from tasks.core.offspring import MARK, end_orphans, marked, new_mark
from tasks.core.progress import PROGRESS_FILE
from tasks.core.scratch import PREFIX, clear_abandoned

pytestmark = pytest.mark.skipif(os.name == "nt", reason="these processes fork")

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]


class Order(BaseModel):
    folder: Path
    seconds: float = 300.0


class Receipt(BaseModel):
    done: bool = True


def note(folder: Path, pid: int) -> None:
    (folder / f"{pid}.pid").touch()


def wander_off(order: Order) -> Receipt:
    """Leave a grandchild that is nobody's child, of no group and of no session of ours."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note(order.folder, os.getpid())
            time.sleep(order.seconds)
        os._exit(0)
    while not list(order.folder.glob("*.pid")):
        time.sleep(0.02)
    return Receipt()


def wander_off_and_wait(order: Order) -> Receipt:
    wander_off(order)
    time.sleep(order.seconds)
    return Receipt()


def keep_forking(order: Order) -> Receipt:
    """Start grandchildren by the hundred, so that none of the walks sees the last one."""
    while True:
        time.sleep(0.01)
        if os.fork() == 0:
            os.setsid()
            note(order.folder, os.getpid())
            time.sleep(order.seconds)


def ignore_sigterm(order: Order) -> Receipt:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(order.folder, os.getpid())
    time.sleep(order.seconds)
    return Receipt()


def be_asked_to_stop(order: Order) -> Receipt:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(order.seconds)
    return Receipt()


def find_no_room(order: Order) -> Receipt:
    answer = Path(os.environ[PROGRESS_FILE]).with_name("answer.partial")
    answer.symlink_to("/dev/full")
    return Receipt()


def chatter(order: Order) -> Receipt:
    line = b"x" * 65535 + b"\n"
    for _ in range(400):
        os.write(1, line)
        time.sleep(0.002)
    os.write(1, b"the end\n")
    time.sleep(1)
    return Receipt()


def ordered(name: str, folder: Path, deadline_s: float = 120.0, seconds: float = 300.0) -> Receipt:
    folder.mkdir(parents=True, exist_ok=True)
    here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    target = f"{Path(__file__).stem}:{name}"
    order = Order(folder=folder, seconds=seconds)
    receipt, _ = run_child(
        target, order, Receipt, log=folder / "log", deadline_s=deadline_s, environment=here
    )
    return receipt


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def noted(folder: Path) -> list[int]:
    return [int(file.stem) for file in folder.glob("*.pid")]


def wait_until(claim: Callable[[], object], seconds: float = 120) -> bool:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        if claim():
            return True
        time.sleep(0.05)
    return False


def test_grandchild_that_wandered_off_ends_with_its_child(tmp_path: Path) -> None:
    assert ordered("wander_off", tmp_path).done
    assert len(noted(tmp_path)) == 1
    assert all(map(is_gone, noted(tmp_path)))


def test_deadline_ends_the_one_that_wandered_off_too(tmp_path: Path) -> None:
    with pytest.raises(ChildTimedOut):
        ordered("wander_off_and_wait", tmp_path, deadline_s=8)
    assert len(noted(tmp_path)) == 1
    assert all(map(is_gone, noted(tmp_path)))


def test_tree_that_forks_while_it_is_walked_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ChildTimedOut):
        ordered("keep_forking", tmp_path, deadline_s=6)
    assert len(noted(tmp_path)) > 20
    assert all(map(is_gone, noted(tmp_path)))


def test_child_that_ignores_sigterm_ends_at_its_deadline(tmp_path: Path) -> None:
    with pytest.raises(ChildTimedOut):
        ordered("ignore_sigterm", tmp_path, deadline_s=6)
    assert all(map(is_gone, noted(tmp_path)))


def test_child_that_was_asked_to_stop_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit, match="stopped from outside") as caught:
        ordered("be_asked_to_stop", tmp_path)
    assert not isinstance(caught.value, TransientFault)


def test_answer_without_room_is_the_disks_fault(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="answer could not be written"):
        ordered("find_no_room", tmp_path)


def test_scratch_without_room_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentUnfit, match="needs a scratch folder"):
        ordered("wander_off", tmp_path)
    assert not noted(tmp_path)


def test_log_does_not_fill_the_disk_and_keeps_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "MOST_LOG_BYTES", 2 * 1024 * 1024)
    ordered("chatter", tmp_path)  # 26 MB
    text = (tmp_path / "log").read_bytes()
    assert len(text) < 13 * 1024 * 1024
    assert b"cut off" in text
    assert text.endswith(b"the end\n")


def test_stopping_ends_children_that_are_waited_for_and_starts_no_more(tmp_path: Path) -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            ordered("ignore_sigterm", tmp_path)
        except EnvironmentUnfit as problem:
            problems.append(problem)

    waiting = threading.Thread(target=work)

    def interrupted() -> None:
        with children_stopped_on_interrupt():
            waiting.start()
            assert wait_until(lambda: noted(tmp_path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    waiting.join(60)
    assert all(map(is_gone, noted(tmp_path)))
    assert "stopped from outside" in str(problems[0])
    with pytest.raises(EnvironmentUnfit, match="stopped from outside"):
        ordered("wander_off", tmp_path / "later")
    with children_stopped_on_interrupt():
        assert ordered("wander_off", tmp_path / "next run").done


def test_error_of_the_work_stops_no_child_of_others(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), children_stopped_on_interrupt():
        raise OSError("mine")
    assert ordered("wander_off", tmp_path).done
    stop_children()
    with children_stopped_on_interrupt():
        pass


def test_next_run_ends_what_a_killed_one_left_and_clears_its_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from test_core_offspring import ordered
        ordered("wander_off_and_wait", Path({str(tmp_path)!r}))
        """
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(scratch)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    assert wait_until(lambda: noted(tmp_path))
    parent.kill()
    parent.wait()
    (orphan,) = noted(tmp_path)
    assert not is_gone(orphan)
    assert end_orphans() >= 1
    assert is_gone(orphan)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert list(scratch.glob(f"{PREFIX}*"))
    assert clear_abandoned() == 1
    assert not list(scratch.glob(f"{PREFIX}*"))


def test_what_a_living_process_owns_is_no_orphan(tmp_path: Path) -> None:
    environment = marked(dict(os.environ), new_mark())
    with subprocess.Popen(SLEEP, env=environment) as helper:
        try:
            end_orphans()
            assert helper.poll() is None
        finally:
            helper.kill()


@pytest.mark.parametrize("mark", ["", "nonsense", ";;", "999999999999-x;no"])
def test_marks_that_nobody_wrote_do_no_harm(mark: str) -> None:
    with subprocess.Popen(SLEEP, env={**os.environ, MARK: mark}) as helper:
        try:
            end_orphans()
        finally:
            helper.kill()
