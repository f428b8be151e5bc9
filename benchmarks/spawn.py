"""Run one command below a small parent and say what it cost: the only clock of the benchmarks.

Runs as `python -I -S benchmarks/spawn.py`, an order as JSON on standard input, the cost as JSON on
standard output. Standard library only, and started anew for each command: `ru_maxrss` of a child
begins at the size of whoever forked it, and this is 10 MiB. What is run is none of its business.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOOK_EVERY_S = 0.1
TIMED_OUT = 124


class DiskPeak:
    """The most bytes that a folder held while it was watched, sampled ten times a second."""

    def __init__(self, folder: str | None) -> None:
        self.peak_bytes = 0
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if folder is not None:
            self._thread.start()

    def end(self) -> None:
        """Stop watching, after one more look."""
        self._over.set()
        if self._folder is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._look()
        self._look()

    def _look(self) -> None:
        assert self._folder is not None
        self.peak_bytes = max(self.peak_bytes, bytes_below(self._folder))


def bytes_below(folder: str) -> int:
    """Add up the sizes of what is in a folder; files that vanish meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{place}/{name}").st_size
    return total


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Run the command of an order.

    Args:
        order: `command`, `environment` (all of it), `folder` to run in, `log` for what it prints,
            `output` for its standard output (the log where it is null), `watch`, a folder or
            null, and `deadline_s`.

    Returns:
        `code`, `seconds`, `cpu_s`, `peak_rss_bytes` (of the largest process that it and its own
        children waited for), `peak_disk_bytes`.
    """
    disk = DiskPeak(order["watch"])
    with (
        Path(order["log"]).open("ab") as log,
        Path(order["output"] or os.devnull).open("wb") as out,
    ):
        began = time.perf_counter()
        child = subprocess.Popen(
            order["command"],
            cwd=order["folder"],
            env=order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=out if order["output"] else log,
            stderr=log,
            start_new_session=True,
        )
        threading.Thread(target=_end_with_parent, args=(child.pid,), daemon=True).start()
        timer = threading.Timer(order["deadline_s"], os.killpg, (child.pid, signal.SIGKILL))
        timer.daemon = True  # or an end before its time would wait for it
        timer.start()
        status, usage = _wait(child.pid)
        seconds = time.perf_counter() - began
        timed_out = not timer.is_alive()
        timer.cancel()
    disk.end()
    return {
        "code": TIMED_OUT if timed_out else os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "peak_disk_bytes": disk.peak_bytes,
    }


def _wait(pid: int) -> tuple[int, resource.struct_rusage]:
    try:
        _, status, usage = os.wait4(pid, 0)
    except BaseException:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return status, usage


def _stop(number: int, _: object) -> None:
    """End by an exception, so that the child is ended too: a signal may go to the whole group."""
    sys.exit(128 + number)


def _end_with_parent(child: int) -> None:
    """Kill the child once whoever asked is gone: nobody wants its cost, and it takes the cores."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    json.dump(measure(json.load(sys.stdin)), sys.stdout)
