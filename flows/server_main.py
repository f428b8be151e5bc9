"""What runs as the embedded Prefect server: uvicorn on a socket that the command holds.

Runs as `python -m flows.server_main ENDPOINT [when-told]`; the endpoint is `fd:N` or `port:N`.
It ends with the command that started it; `flows/prefect_server.py` is the other side.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys

import uvicorn

from tasks.core.child_main import leave_when_stdin_ends
from tasks.core.imports import collector_off

APPLICATION = "prefect.server.api.server:create_app"


def main(endpoint: str, when_told: str = "") -> None:
    """Serve until told to stop, or until the parent is gone.

    Args:
        endpoint: where to listen.
        when_told: anything: touch no database before a byte comes on standard input.
    """
    with collector_off(at_start=True):
        importlib.import_module(APPLICATION.partition(":")[0])
        plugins = importlib.import_module("prefect.plugins")
    # They only add types of blocks, and importing prefect-dask takes a second (3.8.8).
    plugins.load_prefect_collections = dict  # type: ignore[attr-defined]
    if when_told and not os.read(0, 1):
        return
    # Not by PR_SET_PDEATHSIG, which fires when the *thread* that started us ends.
    leave_when_stdin_ends()
    kind, _, number = endpoint.partition(":")
    config = uvicorn.Config(
        APPLICATION, factory=True, host="127.0.0.1", port=int(number), log_level="error"
    )
    if kind == "fd":
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(number))])
    else:
        uvicorn.Server(config).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
