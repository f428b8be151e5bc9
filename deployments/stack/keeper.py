"""Start again whatever of the stack has died: `python -m deployments.stack.keeper`.

A loop of its own because a worker that dies at night must be back for the nightly run, on every
system alike. Nothing hangs on it: when it is killed the others run on, and `ingot up` starts it
again.
"""

from __future__ import annotations

import os
import sys
import time

from deployments.stack.members import mend
from deployments.stack.places import Role, Stack
from deployments.stack.processes import TOKEN, bound_log
from tasks.core.errors import ResourceBusy
from tasks.core.settings import Settings

LOOK_EVERY_S = 2.0


def keep(stack: Stack, token: str | None) -> None:
    """Look every few seconds until nothing should run any more, or another keeper was started."""
    while _look(stack, token):
        time.sleep(LOOK_EVERY_S)


def _look(stack: Stack, token: str | None) -> bool:
    """Mend what died; gives whether this keeper is still wanted."""
    try:
        with stack.locked(timeout_s=0):
            plan, keeper = stack.plan(), stack.member(Role.KEEPER)
            if plan is None or keeper is None or keeper.token != token:
                return False
            for role in mend(stack, plan):
                _say(f"{role} had died and was started again")
    except ResourceBusy:  # `ingot up` or `down` is at it
        return True
    except OSError as problem:  # a full disk; it may have room again later
        _say(f"could not look after the stack: {problem}")
    for role in Role:
        bound_log(stack.log(role))
    return True


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    keep(Stack(Settings()), os.environ.get(TOKEN))
