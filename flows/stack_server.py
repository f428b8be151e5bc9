"""The server that `ingot up` keeps running in this home, for commands without a configured one.

Reads the one file that `deployments/stack` leaves about it; knows nothing else of the stack.
"""

from __future__ import annotations

import json

import psutil

from tasks.core.settings import Settings

TOKEN = "INGOT_STACK_TOKEN"  # as deployments/stack/processes.py sets it


def stack_api(settings: Settings) -> str | None:
    """Give the address of its API; None when it does not run.

    The token, not the pid alone: after a power cut the pid may be another's, and so may the port.
    """
    try:
        member = json.loads((settings.home / "stack" / "server.json").read_text(encoding="utf-8"))
        running = psutil.Process(member["pid"]).environ().get(TOKEN) == member["token"]
        return str(member["api"]) if running else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
