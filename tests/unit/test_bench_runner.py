"""The clock: what a command cost, to the process; and what fails is not measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.places import ROOT, Work
from benchmarks.records import Cost, NotMeasured
from benchmarks.runner import cost_of

MIB = 1024**2
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="wait4 is POSIX")


def run(work: Path, code: str, **options: object) -> Cost:
    return cost_of([sys.executable, "-c", code], Work(work), **options)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool], patience_s: float = 60.0) -> None:
    gives_up_at = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < gives_up_at
        time.sleep(0.1)


def test_peak_is_the_childs_and_not_that_of_who_started_it(tmp_path: Path) -> None:
    ballast = bytearray(400 * MIB)
    found = run(tmp_path, "pass")
    assert found.peak_rss_bytes < 100 * MIB < len(ballast)


def test_peak_of_a_grandchild_counts(tmp_path: Path) -> None:
    inner = f"b = bytearray({300 * MIB}); b[::4096] = b'1' * len(b[::4096])"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    assert run(tmp_path, code).peak_rss_bytes > 300 * MIB


def test_seconds_are_wall_and_cpu_is_not(tmp_path: Path) -> None:
    found = run(tmp_path, "import time; time.sleep(1.5)")
    assert found.seconds >= 1.5
    assert found.cpu_s < 1.5


def test_disk_peak_is_seen_although_the_file_goes(tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    file = folder / "big"
    code = (
        "import pathlib, time\n"
        f"file = pathlib.Path({str(file)!r})\n"
        f"file.write_bytes(bytes({3 * MIB}))\n"
        "time.sleep(1)\n"
        "file.unlink()"
    )
    assert run(tmp_path, code, watch=folder).peak_disk_bytes == 3 * MIB


def test_other_exit_code_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="code 7"):
        run(tmp_path, "raise SystemExit(7)")
    assert run(tmp_path, "raise SystemExit(7)", codes=(7,)).seconds > 0


def test_command_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="code 124"):
        run(tmp_path, "import time; time.sleep(600)", deadline_s=1.0)


@pytest.mark.parametrize("whole_group", [False, True])
def test_command_ends_with_who_asked_for_it(tmp_path: Path, whole_group: bool) -> None:
    started = tmp_path / "pid"
    code = (
        "import os, pathlib, time\n"
        f"pathlib.Path({str(started)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    asking = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.places import Work; from benchmarks.runner import cost_of\n"
        f"cost_of([sys.executable, '-c', {code!r}], Work(Path({str(tmp_path)!r})))"
    )
    command = [sys.executable, "-c", asking]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as asker:
        wait_until(lambda: started.is_file() and started.read_text() != "")
        if whole_group:
            os.killpg(asker.pid, signal.SIGTERM)
        else:
            asker.kill()
    wait_until(lambda: not psutil.pid_exists(int(started.read_text())))


def test_command_that_is_not_there_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="could not be run"):
        cost_of(["/no/such/program"], Work(tmp_path))


def test_two_costs_in_turn() -> None:
    first = Cost(seconds=1, cpu_s=2, peak_rss_bytes=30, peak_disk_bytes=4)
    both = first.then(Cost(seconds=10, cpu_s=20, peak_rss_bytes=3, peak_disk_bytes=40))
    assert both == Cost(seconds=11, cpu_s=22, peak_rss_bytes=30, peak_disk_bytes=40)
