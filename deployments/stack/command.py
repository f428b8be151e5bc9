"""`ingot up`, `ingot down`, `ingot status`: what keeps releases running on this machine.

Heavy imports sit inside the commands, so that help comes at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deployments.stack.status import Status
    from deployments.stack.up import Raised

SOMETHING_IS_DOWN = 3


def up(
    watch: Annotated[
        list[str] | None,
        typer.Option(
            "--watch",
            help="Folder (or s3:// URL) in which checkpoints land; repeat for several. "
            "Default: landing in INGOT_HOME.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Of our own server, on loopback. Default: 4200.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Work pool. Default: ingot.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Runs at the same time. Default: 4.")
    ] = None,
) -> None:
    """Start Prefect's server and UI, a worker and the watcher here; releases what lands."""
    from deployments.stack.places import Stack
    from deployments.stack.up import Order, bring_up
    from flows.command import errors_shown
    from flows.display import StepDisplay, console_for
    from tasks.core.settings import Settings

    console = console_for(json=False)
    stack = Stack(Settings())
    with errors_shown(json=False):
        with StepDisplay(console):
            raised = bring_up(stack, Order(watch or None, port, pool, limit))
        for line in words_for(raised, str(stack.folder)):
            console.print(line, highlight=False, soft_wrap=True)


def words_for(raised: Raised, logs: str) -> list[str]:
    """Say what runs, and what to do next."""
    from deployments.stack.server import ui_of

    plan = raised.plan
    head = f"Started: {', '.join(raised.started)}." if raised.started else "It was already running."
    if raised.deployed and not raised.started:
        head += " Deployed again: prefect.yaml, a flow or the server had changed."
    mine = "" if plan.port is not None else " (the configured server)"
    return [
        head,
        f"UI        {ui_of(plan.api)}{mine}",
        *(f"Watched   {folder}" for folder in plan.folders),
        f"Logs      {logs}",
        "Next      copy a checkpoint into a folder NAME/ of a watched folder, with its",
        "          questions.jsonl; `ingot status` and the UI show its release.",
        "          `ingot down` stops everything.",
    ]


def down(
    wait: Annotated[
        bool, typer.Option("--wait", help="First let the runs that are going on end.")
    ] = False,
) -> None:
    """Stop what `ingot up` started. Runs that are going on are cancelled, with their children."""
    from deployments.stack.down import let_runs_end, take_down
    from deployments.stack.places import Stack
    from flows.command import errors_shown
    from flows.display import StepDisplay, console_for
    from tasks.core.progress import step
    from tasks.core.settings import Settings

    console = console_for(json=False)
    stack = Stack(Settings())
    with errors_shown(json=False):
        with StepDisplay(console):
            if wait:
                with step("let runs end") as say:
                    let_runs_end(stack, say)
            ended = take_down(stack)
        if not ended.processes:
            console.print("Nothing was running.")
        for name in ended.cancelled:
            console.print(f"Cancelled {name}: start it again in the UI; finished builds are kept.")
        if ended.unreported:
            console.print(
                f"{len(ended.unreported)} runs were ended, but the server did not answer: "
                "there they show as running until it misses their heartbeat."
            )


def status(
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document for machines.")
    ] = False,
) -> None:
    """Show what runs, what waits and how the last runs ended; exit code 3 if a part is down."""
    from deployments.stack.places import Stack
    from deployments.stack.status import status_of
    from flows.command import errors_shown
    from flows.display import console_for
    from tasks.core.settings import Settings

    with errors_shown(json):
        found = status_of(Stack(Settings()))
        if json:
            typer.echo(found.model_dump_json(indent=2))
        else:
            console = console_for(json=False)
            for line in lines_of(found):
                console.print(line, highlight=False, soft_wrap=True)
    if not found.complete:
        raise typer.Exit(SOMETHING_IS_DOWN)


def lines_of(found: Status) -> list[str]:
    """Give a status as a person reads it."""
    from rich.markup import escape

    if not found.wanted:
        return ["Nothing runs; `ingot up` starts it."]
    lines = (
        [f"UI        {found.ui}{'' if found.answers else ' does not answer'}"] if found.ui else []
    )
    for one in found.members:
        since = f"since {one.since:%Y-%m-%d %H:%M:%SZ}, pid {one.pid}" if one.alive else "DOWN"
        again = f", started again {one.restarts} times" if one.restarts else ""
        hint = "" if one.alive else f"; see {one.log}"
        lines.append(f"{one.role:<9} {since}{again}{hint}")
    lines += [f"watched   {folder}" for folder in found.folders]
    if found.runs:
        counted = ", ".join(f"{count} {state}" for state, count in sorted(found.runs.items()))
        lines.append(f"runs      {counted}")
    for run in found.last:
        when = f"{run.ended:%Y-%m-%d %H:%M:%SZ}" if run.ended else ""
        lines.append(escape(f"          {when} {run.name}: {run.state} {run.message}".rstrip()))
    if not found.complete:
        lines.append("`ingot up` starts what is down.")
    return lines
