"""The whole `ingot` command: what releases, and what keeps it running.

`flows.command` is the part that needs no deployment; this adds the rest, because flows know
nothing of deployments.
"""

from __future__ import annotations

from deployments.stack.command import down, status, up
from deployments.watch.command import watch
from flows.command import app
from flows.command import main as run

for command in (up, down, status, watch):
    app.command()(command)


def main() -> None:
    """Run the command."""
    run()


if __name__ == "__main__":
    main()
