"""Being told of changes in a folder instead of looking for them all the time.

Only ever a reason to look: notices may be lost (a full queue, a share that another machine writes
to), and the watch looks every few seconds anyway.
"""

from __future__ import annotations

import threading
from pathlib import Path

from deployments.watch.diary import Say

_GROUP_MS, _STEP_MS, _TIMEOUT_MS, _POLL_MS = 800, 100, 1000, 1000
_RETRY_S = 10.0


def tell_of_changes(
    root: Path, changed: threading.Event, stop: threading.Event, say: Say, poll: bool
) -> None:
    """Set an event at each change below a folder until told to stop.

    With `poll` listings are compared every second, for where the system gives no notices.
    """
    said = ""
    while not stop.is_set():
        try:
            _tell_until_replaced(root, changed, stop, poll)
        # Its errors from Rust are RuntimeErrors; no inotify watches left is an OSError.
        except (OSError, RuntimeError) as problem:
            if root.is_dir() and str(problem) != said:
                said = str(problem)
                say("notices", f"none of {root}: {said}. It is looked at every few seconds instead")
        changed.set()
        stop.wait(_RETRY_S)


def _tell_until_replaced(
    root: Path, changed: threading.Event, stop: threading.Event, poll: bool
) -> None:
    import watchfiles

    inode = root.stat().st_ino
    for changes in watchfiles.watch(
        root,
        watch_filter=None,
        debounce=_GROUP_MS,
        step=_STEP_MS,
        stop_event=stop,
        rust_timeout=_TIMEOUT_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
        force_polling=poll or None,
        poll_delay_ms=_POLL_MS,
        ignore_permission_denied=True,
    ):
        if changes:
            changed.set()
        # A folder that was removed and made again is another one, of which nothing is told.
        if root.stat().st_ino != inode:
            return
