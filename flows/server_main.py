"""What runs as the embedded Prefect server: uvicorn on a socket that the command holds.

Runs as `python -m flows.server_main ENDPOINT`, where the endpoint is `fd:N` or `port:N`.
It ends with the command that started it; `flows/prefect_server.py` is the other side.
"""

from __future__ import annotations

import importlib
import socket
import sys

import uvicorn

from tasks.core.child_main import leave_when_stdin_ends
from tasks.core.imports import collector_off

APPLICATION = "prefect.server.api.server:create_app"


def main(endpoint: str) -> None:
    """Serve until told to stop, or until the parent is gone."""
    # Not by PR_SET_PDEATHSIG, which fires when the *thread* that started us ends.
    leave_when_stdin_ends()
    with collector_off():
        importlib.import_module(APPLICATION.partition(":")[0])
        plugins = importlib.import_module("prefect.plugins")
    # They only add types of blocks, and importing prefect-dask takes a second (3.8.8).
    plugins.load_prefect_collections = dict  # type: ignore[attr-defined]
    kind, _, number = endpoint.partition(":")
    config = uvicorn.Config(
        APPLICATION, factory=True, host="127.0.0.1", port=int(number), log_level="error"
    )
    if kind == "fd":
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(number))])
    else:
        uvicorn.Server(config).run()


if __name__ == "__main__":
    main(sys.argv[1])
