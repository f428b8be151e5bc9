"""How busy this machine is at present, for tests of what is promised in seconds.

A fixed bound fails on a busy machine, and one that is generous enough not to proves nothing. So the
promised seconds are multiplied by what the same machine makes of a known piece of work.
"""

from __future__ import annotations

import subprocess
import sys
import time

from tests.conftest import REPOSITORY

MOST = 3.0  # of the promised seconds, for what takes little work and much waiting


def slowness() -> float:
    """Tell how many times longer than its processor time a program takes here, at present.

    Not on Windows, which counts no children.
    """
    import resource

    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import prefect.flows"], cwd=REPOSITORY, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return max(1.0, (time.monotonic() - began) / used)
