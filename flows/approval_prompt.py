"""The question at the terminal: the proposal, then promote or reject.

Asks and gives the answer back; what follows from it is the flow's business.
"""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

import typer

from tasks.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from flows.approval import Answer, Asker
    from flows.display import StepDisplay
    from tasks.core.records import Release


def require_terminal(*, json: bool) -> None:
    """Refuse to ask where nobody can answer.

    Raises:
        InputError: the command's input is no terminal, or its output is for a program.
    """
    if not json and sys.stdin.isatty():
        return
    raise InputError(
        "--approve needs somebody to ask",
        expected="a terminal",
        got="--json" if json else "an input that is no terminal",
        next_step="leave --approve out, or start the release from the UI's form with `Ask before "
        "the champion is changed` on: it waits there for an answer",
    )


def terminal_asker(console: Console, display: StepDisplay) -> Asker:
    """Give what asks at this terminal; it waits for as long as it takes."""

    def ask(release: Release, hours: float) -> Answer | None:  # noqa: ARG001  (somebody is there)
        from flows.approval import Answer

        with display.put_aside():
            show_proposal(console, release)
            promote = typer.confirm("Promote it?", default=False)
            comment = typer.prompt("Comment for the report", default="", show_default=False)
        return Answer(promote, comment.strip(), getpass.getuser())

    return ask


def show_proposal(console: Console, release: Release) -> None:
    """Print what there is to decide."""
    from rich.markup import escape

    from flows.display import print_rows
    from tasks.report.markdown import variants_rows
    from tasks.report.proposal import proposal_rows

    console.print()
    print_rows(console, f"Variants of {release.name}", variants_rows(release, intervals=False))
    console.print(f"[bold]Verdict[/]   {escape(release.judgement.reason)}")
    for name, value in proposal_rows(release)[0].items():
        console.print(f"[bold]{name.capitalize()}[/]  {escape(value)}")
    console.print(f"[bold]Report[/]    {escape(str(release.report))}", soft_wrap=True)
