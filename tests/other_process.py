"""Running a piece of code in a process of its own, for what only another process can show."""

from __future__ import annotations

import os
import subprocess
import sys


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start it with pipes; the caller reads, writes and ends it."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
