"""`ingot watch`: announces the checkpoints that land in folders and buckets.

Heavy imports sit inside, so that help and refusals come at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from flows.command import errors_shown

if TYPE_CHECKING:
    from deployments.watch.bucket import Bucket
    from deployments.watch.diary import Say
    from deployments.watch.local import LocalPlace
    from tasks.core.settings import Settings

PlacesArgument = Annotated[
    list[str],
    typer.Argument(
        help="Folders, or URLs such as s3://bucket/prefix, with checkpoints as NAME/ or "
        "NAME/ANYTHING/.",
        show_default=False,
    ),
]


def watch(
    places: PlacesArgument,
    name: Annotated[
        str | None, typer.Option(help="Name of every release; else that of its folder.")
    ] = None,
    quiet: Annotated[
        float, typer.Option(min=0, help="Seconds without a change until a checkpoint has landed.")
    ] = 5.0,
    give_up: Annotated[
        float, typer.Option(min=0, help="Seconds until an incomplete checkpoint counts as broken.")
    ] = 600.0,
    rescan: Annotated[
        float, typer.Option(min=0.5, help="Seconds between two looks into a folder.")
    ] = 10.0,
    poll: Annotated[
        bool, typer.Option("--poll", help="Trust no notices of changes, as on network shares.")
    ] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks at a URL.")] = 30.0,
    into: Annotated[
        Path | None,
        typer.Option(help="Folder for what a URL brings; else INGOT_HOME/landed."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Announce what is there, and leave.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Announce what is there once more.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Write the log as JSON lines.")] = False,
) -> None:
    """Watch folders and buckets; tell the Prefect server of each checkpoint that lands there."""
    from deployments.watch.diary import Diary, DiaryHandler
    from tasks.core.settings import Settings

    say = Diary(as_json=json)
    logging.getLogger("tasks").addHandler(DiaryHandler(say))
    stragglers: list[Thread] = []
    with _leaving_at_once(stragglers), errors_shown(json=False):
        _refuse_bad_name(name)
        settings = Settings()
        watched = _local_places(places, name, quiet, rescan, say)
        into = (into or settings.home / "landed").expanduser().absolute()
        buckets = _buckets(places, name, every, into)
        code = _watch(
            [*watched, *buckets],
            settings,
            say,
            into=into,
            name=name,
            give_up_s=give_up,
            once=once,
            again=again,
            poll=poll,
            stragglers=stragglers,
        )
        raise typer.Exit(code)


@contextmanager
def _leaving_at_once(stragglers: list[Thread]) -> Iterator[None]:
    """Let the process end though threads of it go on: nothing of theirs has to be finished.

    The interpreter's own end would freeze them wherever they are, and in watchfiles' Rust that is
    an abort (measured, 1.3 on Python 3.11).
    """
    try:
        yield
    except typer.Exit as end:
        if stragglers:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(end.exit_code)
        raise


def _refuse_bad_name(name: str | None) -> None:
    from tasks.checkpoint.admit import choose_name

    if name is not None:
        choose_name(name, Path("any"))


def _local_places(
    places: list[str], name: str | None, quiet_s: float, every_s: float, say: Say
) -> list[LocalPlace]:
    from deployments.watch.local import LocalPlace

    def tell_ignored(link: Path) -> None:
        say("ignored", f"{link}: a link to a folder; copy or move the folder itself")

    roots = dict.fromkeys(Path(one).expanduser().resolve() for one in places if "://" not in one)
    found = [
        LocalPlace(root, name=name, quiet_s=quiet_s, every_s=every_s, ignored=tell_ignored)
        for root in roots
    ]
    for place in found:
        place.require_fit()
    return found


def _buckets(places: list[str], name: str | None, every_s: float, into: Path) -> list[Bucket]:
    from deployments.watch.bucket import Bucket
    from tasks.core.addresses import require_plain_address

    urls = dict.fromkeys(one for one in places if "://" in one)
    for url in urls:
        require_plain_address(url, "a watched URL")
    return [Bucket(url, into=into, name=name, every_s=every_s) for url in urls]


def _watch(
    places: list[LocalPlace | Bucket],
    settings: Settings,
    say: Say,
    *,
    into: Path,
    name: str | None,
    give_up_s: float,
    once: bool,
    again: bool,
    poll: bool,
    stragglers: list[Thread],
) -> int:
    from deployments.watch.bucket import Bucket
    from deployments.watch.journal import Journal
    from deployments.watch.lander import Lander
    from deployments.watch.postman import Outbox
    from deployments.watch.run import Watch
    from deployments.watch.server import PrefectServer
    from deployments.watch.sole import sole_watcher

    server = PrefectServer()
    claimed = [str(into)] if any(isinstance(place, Bucket) for place in places) else []
    with sole_watcher(settings, [*claimed, *(place.address for place in places)]):
        journal = Journal(settings.home / "watch" / "journal.json")
        for place in places:
            if isinstance(place, Bucket):
                place.sweep()
        outbox = Outbox()
        lander = Lander(
            journal=journal, outbox=outbox, say=say, name=name, give_up_s=give_up_s, again=again
        )
        say("watching", f"{', '.join(place.address for place in places)} for {server.address}")
        running = Watch(
            places,
            lander=lander,
            journal=journal,
            outbox=outbox,
            server=server,
            say=say,
            once=once,
            poll=poll,
        )
        try:
            return running.run()
        finally:
            say("stopped", "")
            stragglers += running.stragglers
