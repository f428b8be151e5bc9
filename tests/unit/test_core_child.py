"""A heavy step runs in a child process that cannot outlive, outgrow or outlast its bounds."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from pydantic import BaseModel

from tasks.core.child import QUIET_ENVIRONMENT, run_child
from tasks.core.errors import (
    CheckpointRefused,
    ChildKilled,
    ChildTimedOut,
    DoesNotFit,
    IngotError,
    ResourceBusy,
    ToolFailed,
)
from tasks.core.progress import report_progress


class Order(BaseModel):
    seconds: float = 0.0
    megabytes: int = 0
    pid_file: str = ""


class Receipt(BaseModel):
    pid: int


class Surroundings(BaseModel):
    variables: dict[str, str]
    group: int


def obey(order: Order) -> Receipt:
    report_progress("allocating")
    block = bytearray(order.megabytes * 1024 * 1024)
    block[::4096] = b"x" * len(block[::4096])
    if order.pid_file:
        Path(order.pid_file).write_text(str(os.getpid()))
    time.sleep(order.seconds)
    return Receipt(pid=os.getpid())


def refuse(order: Order) -> Receipt:
    raise CheckpointRefused("no weights", next_step="copy them")


def stumble(order: Order) -> Receipt:
    raise KeyError("missing")


def die(order: Order) -> Receipt:
    os.kill(os.getpid(), signal.SIGKILL)
    return Receipt(pid=0)


def leave(order: Order) -> Receipt:
    os._exit(7)


def hire(order: Order) -> Receipt:
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(order.pid_file).write_text(str(helper.pid))
    time.sleep(60)
    return Receipt(pid=helper.pid)


def look_around(order: Order) -> Surroundings:
    return Surroundings(variables=dict(os.environ), group=os.getpgrp())


def run_short(order: Order) -> Receipt:
    raise {
        "memory": MemoryError(),
        "disk": OSError(errno.ENOSPC, "No space left on device"),
        "busy": OSError(errno.EBUSY, "Device or resource busy"),
        "absent": OSError(errno.ENOENT, "No such file or directory"),
    }[order.pid_file]


def is_gone(pid: int) -> bool:
    # A container's first process may never reap the orphans that it inherits.
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ordered(name: str, order: Order, log: Path, **bounds: object) -> tuple[Receipt, object]:
    here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    bounds = {"deadline_s": 60.0, **bounds}
    target = f"{Path(__file__).stem}:{name}"
    return run_child(target, order, Receipt, log=log, environment=here, **bounds)


def test_result_and_cost_come_back(tmp_path: Path) -> None:
    heard: list[str] = []
    receipt, usage = ordered(
        "obey", Order(megabytes=64, seconds=0.5), tmp_path / "log", on_progress=heard.append
    )
    assert receipt.pid != os.getpid()
    assert 64 * 1024**2 < usage.peak_rss_bytes < 512 * 1024**2
    assert usage.cpu_s > 0
    assert heard == ["allocating"]


def test_error_of_our_tree_keeps_its_type_and_parts(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="no weights") as caught:
        ordered("refuse", Order(), tmp_path / "log")
    assert caught.value.next_step == "copy them"


def test_foreign_error_is_a_tool_failure_with_its_name_and_a_traceback_in_the_log(
    tmp_path: Path,
) -> None:
    with pytest.raises(ToolFailed, match="KeyError"):
        ordered("stumble", Order(), tmp_path / "log")
    assert "Traceback" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("lack", "kind"),
    [("memory", DoesNotFit), ("disk", DoesNotFit), ("busy", ResourceBusy), ("absent", ToolFailed)],
)
def test_what_the_machine_lacks_decides_whether_another_try_helps(
    tmp_path: Path, lack: str, kind: type[IngotError]
) -> None:
    with pytest.raises(IngotError) as caught:
        ordered("run_short", Order(pid_file=lack), tmp_path / "log")
    assert type(caught.value) is kind


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups of this kind")
def test_child_is_quiet_knows_no_secret_and_stays_in_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    seen, _ = run_child(
        f"{Path(__file__).stem}:look_around",
        Order(),
        Surroundings,
        log=tmp_path / "log",
        deadline_s=60,
        environment={"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert not set(secrets) & set(seen.variables)
    assert QUIET_ENVIRONMENT.items() <= seen.variables.items()
    assert seen.group == os.getpgrp()


def test_deadline_ends_what_the_child_has_started_too(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(ChildTimedOut):
        ordered("hire", Order(pid_file=str(pid_file)), tmp_path / "log", deadline_s=5)
    assert is_gone(int(pid_file.read_text()))


def test_killed_child_is_transient(tmp_path: Path) -> None:
    with pytest.raises(ChildKilled, match="SIGKILL"):
        ordered("die", Order(), tmp_path / "log")


def test_child_that_leaves_without_a_result_is_a_tool_failure(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match="code 7"):
        ordered("leave", Order(), tmp_path / "log")


def test_deadline_ends_the_child(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(ChildTimedOut):
        ordered("obey", Order(seconds=60, pid_file=str(pid_file)), tmp_path / "log", deadline_s=3)
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_memory_bound_ends_the_child_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="at most 100 MiB"):
        ordered(
            "obey",
            Order(megabytes=300, seconds=60),
            tmp_path / "log",
            memory_limit_bytes=100 * 1024**2,
        )


def test_child_dies_with_its_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from test_core_child import Order, ordered
        order = Order(seconds=60, pid_file={str(pid_file)!r})
        ordered("obey", order, Path({str(tmp_path)!r}, "log"))
        """
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    while not pid_file.exists() or not pid_file.read_text():
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    child = int(pid_file.read_text())
    for _ in range(100):
        if is_gone(child):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child outlived its parent by five seconds")
