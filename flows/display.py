"""How a release looks on a terminal: one live line a step, and a table at the end.

Only shows; decides nothing and knows no step by name.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tasks.core.progress import StepEvent, StepState, add_listener, remove_listener
from tasks.core.records import Environment, Release
from tasks.report.approval import approval_in_words
from tasks.report.markdown import environment_rows, variants_rows
from tasks.report.markup import Rows
from tasks.report.remarks import failures_in_words

MARKS = {
    StepState.FINISHED: ("✓", "green"),
    StepState.CACHED: ("=", "cyan"),
    StepState.FAILED: ("✗", "red"),
}
MOST_ADVICE = 3  # the report has all of it
COMFORTABLE_WIDTH = 100  # columns; below it a table saves every space


@dataclass
class _Line:
    began_s: float
    detail: str = ""
    state: StepState = StepState.STARTED
    took_s: float = 0.0


class StepDisplay:
    """Shows steps as they go: live lines on a terminal, one finished line each elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: dict[str, _Line] = {}
        self._spinners: dict[str, Spinner] = {}
        self._mutex = threading.Lock()
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=8, transient=False
        )

    def __enter__(self) -> StepDisplay:
        """Begin to show."""
        add_listener(self._hear)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state on the screen."""
        remove_listener(self._hear)
        if self._console.is_terminal:
            self._live.stop()

    @contextmanager
    def put_aside(self) -> Iterator[None]:
        """Leave the terminal to somebody else; what has ended is not shown again afterwards."""
        if not self._console.is_terminal:
            yield
            return
        self._live.stop()
        try:
            yield
        finally:
            with self._mutex:
                self._lines = {k: v for k, v in self._lines.items() if v.state not in MARKS}
            self._live.start()

    def _hear(self, event: StepEvent) -> None:
        with self._mutex:
            line = self._lines.setdefault(event.step, _Line(began_s=event.at_s))
            line.state = event.state
            line.detail = event.detail or line.detail
            line.took_s = event.at_s - line.began_s
        ended = event.state in MARKS
        if ended and not self._console.is_terminal:
            self._console.print(_finished(event.step, line), soft_wrap=True)

    def _render(self) -> RenderableType:
        with self._mutex:
            return Group(*(self._row(step, line) for step, line in self._lines.items()))

    def _row(self, step: str, line: _Line) -> RenderableType:
        if line.state in MARKS:
            return _finished(step, line)
        spinner = self._spinners.setdefault(step, Spinner("dots", style="yellow"))
        seconds = time.monotonic() - line.began_s
        spinner.update(text=_text(step, seconds, line.detail))
        return spinner


def _finished(step: str, line: _Line) -> Text:
    mark, colour = MARKS[line.state]
    seconds = None if line.state is StepState.CACHED else line.took_s
    text = _text(step, seconds, line.detail or ("cached" if seconds is None else ""))
    return Text.assemble((f"{mark} ", colour), text)


def _text(step: str, seconds: float | None, detail: str) -> Text:
    clock = f"{seconds:7.1f} s" if seconds is not None else " " * 9
    first = detail.splitlines()[0] if detail else ""
    text = Text.assemble((f"{step:<20}", "bold"), f"{clock}  ", (first, "dim"))
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def console_for(*, json: bool) -> Console:
    """Give the console for people: standard output, or standard error when JSON owns the former."""
    return Console(file=sys.stderr if json else sys.stdout, highlight=False)


def print_rows(console: Console, title: str, rows: Rows) -> None:
    """Print records of one shape as a table; a narrow one has each word of a header on a line."""
    narrow = console.width < COMFORTABLE_WIDTH
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    table.show_edge = False
    table.padding = (0, 0 if narrow else 1, 0, 0)
    for column in rows[0] if rows else []:
        table.add_column(column.replace(" ", "\n") if narrow else column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    console.print(table)


def print_champions(title: str, rows: list[dict[str, Any]]) -> None:
    """Print champions, and the report of each on a line that can be copied."""
    from flows.inventory import as_table

    console = console_for(json=False)
    print_rows(console, title, as_table(rows))
    for row in rows:
        console.print(f"{row['champion']}  {escape(row['report'])}", soft_wrap=True)


def print_environment(console: Console, environment: Environment) -> None:
    """Print what was found of the machine, problems last."""
    print_rows(console, "Environment", environment_rows(environment))
    for warning in environment.warnings:
        console.print(f"[yellow]Note:[/] {escape(warning)}")
    for problem in environment.problems:
        console.print(f"[red]Problem:[/] {escape(problem)}")
    if not environment.problems:
        console.print("[green]Fit:[/] nothing is missing here.")


def print_release(console: Console, release: Release, *, is_unchanged: bool = False) -> None:
    """Print the variants, the champion with its answer, and where the report is."""
    console.print()
    print_rows(console, f"Variants of {release.name}", variants_rows(release, intervals=False))
    for failure in failures_in_words(release.failures):
        console.print(f"[red]{escape(failure)}[/]")
    console.print(f"[bold]Verdict[/]   {escape(release.judgement.reason)}")
    if decision := approval_in_words(release):
        console.print(f"[bold]Decision[/]  {escape(decision)}")
    for advice in release.judgement.advice[:MOST_ADVICE]:
        console.print(f"[bold]Try[/]       {escape(advice)}")
    if (more := len(release.judgement.advice) - MOST_ADVICE) > 0:
        console.print(f"          and {more} more in the report")
    if release.registration is not None:
        registered = release.registration
        console.print(f"[bold]Champion[/]  {escape(registered.model_id)}")
        console.print(f"[bold]Question[/]  {escape(registered.question)}")
        console.print(f"[bold]Answer[/]    {escape(registered.answer)}")
    console.print(f"[bold]Report[/]    {escape(str(release.report))}", soft_wrap=True)
    if is_unchanged:
        console.print("Nothing has changed since that run; --again runs it all the same.")
        return
    cached = f", {len(release.cached)} steps cached" if release.cached else ""
    console.print(f"[dim]{release.seconds:.1f} s{cached}[/]")
