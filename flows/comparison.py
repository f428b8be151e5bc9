"""`ingot compare A B`: which two runs are meant, and what changed between them, for people.

Finds and shows; how a change is judged is in `tasks/report/compare.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.core.figures import figure
from tasks.core.settings import Settings
from tasks.foundry.ledger import champion_of, history_of, names

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.report.load import Run

Document = dict[str, Any]

LATEST = "latest"
_METRICS = "metrics.json"
_ORDER = ("regressed", "better", "same", "can't tell")
_STYLES = {"regressed": "bold red", "better": "green", "same": "dim", "can't tell": "yellow"}


# ---------------------------------------------------------------- which run is meant


def run_folder(word: str, settings: Settings) -> Path:
    """Find the run that a word of the command line means.

    Args:
        word: `latest`, the folder of a run, a run's id or the beginning of it, the id of a
            registered model, or a name, which means the run that examined its champion.
        settings: where runs and ledger are.

    Raises:
        InputError: it means no run, or several.
    """
    runs = sorted(path.parent for path in settings.runs.glob(f"[!.]*/{_METRICS}"))
    runs = [run for run in runs if not run.name.endswith(".partial")]
    if word == LATEST and runs:
        return runs[-1]
    if (Path(word) / _METRICS).is_file():
        return Path(word)
    begin = [run for run in runs if run.name.startswith(word)]
    exact = [run for run in begin if run.name == word]
    if len(exact or begin) == 1:
        return (exact or begin)[0]
    if begin:
        raise InputError(
            f"{word!r} is the beginning of {len(begin)} runs",
            expected=f"one of {_listed(run.name for run in begin)}",
            next_step="write more of it",
        )
    return _of_ledger(word, runs, settings)


def _of_ledger(word: str, runs: list[Path], settings: Settings) -> Path:
    run_id = _champion_run(word, settings)
    folder = settings.runs / run_id if run_id else None
    if folder is not None and (folder / _METRICS).is_file():
        return folder
    if run_id:
        raise InputError(
            f"{word!r} was examined in the run {run_id}, whose folder is gone",
            next_step=f"restore it below {settings.runs}, or release the checkpoint again",
        )
    known = _listed([run.name for run in runs[-3:]][::-1] + names(settings)) or "none yet"
    raise InputError(
        f"{word!r} is no run",
        expected="a run's id or the beginning of it, its folder, a model id or a name of "
        f"`ingot list`, or `{LATEST}`",
        next_step=f"the newest runs and the names here are {known}",
    )


def _champion_run(word: str, settings: Settings) -> str:
    """Give the run of a registered model, or of the champion of a name; empty for neither."""
    known = names(settings)
    if word.lower() in (name.lower() for name in known):
        champion = champion_of(settings, word)
        return champion.run_id if champion else ""
    entries = [entry for name in known for entry in history_of(settings, name)]
    return next((entry.run_id for entry in entries[::-1] if entry.model_id == word), "")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


# ---------------------------------------------------------------- what changed


def comparison(first: str, second: str, settings: Settings) -> Document:
    """Compare two runs, as plain data.

    Args:
        first: the run before, as `run_folder` reads it.
        second: the run after.
        settings: where runs and ledger are.

    Raises:
        InputError: one is no run, cannot be read, or they have no precision in common.
    """
    from tasks.report.compare import compare_runs
    from tasks.report.load import load_run

    before, after = (load_run(run_folder(word, settings)) for word in (first, second))
    return {
        "a": _run(before),
        "b": _run(after),
        "precisions": {
            precision.value: {
                "same_bytes": found.before == found.after,
                "counts": found.counts,
                # Through text, which has no infinity: a bound that is none becomes null.
                **json.loads(found.model_dump_json()),
            }
            for precision, found in compare_runs(before, after).items()
        },
    }


def has_regressed(document: Document) -> bool:
    """Tell whether any metric of any precision regressed."""
    return any(part["counts"]["regressed"] for part in document["precisions"].values())


def _run(run: Run) -> Document:
    questions = run.release.questions
    return {
        "run_id": run.run_id,
        "name": run.release.name,
        "written_at": f"{run.written_at:%Y-%m-%dT%H:%M:%SZ}",
        "folder": str(run.folder),
        "questions": questions.count if questions else None,
    }


# ---------------------------------------------------------------- on a terminal


def print_comparison(console: Console, document: Document, *, everything: bool) -> None:
    """Print for each precision what changed, worst first; what is the same only on request.

    Args:
        console: where to.
        document: of `comparison`.
        everything: print what is the same too.
    """
    for side in ("a", "b"):
        run = document[side]
        asked = f"{run['questions']:,} questions" if run["questions"] else "questions unknown"
        console.print(f"{side.upper()}  {run['run_id']}, {asked}", soft_wrap=True)
    for precision, part in document["precisions"].items():
        console.print()
        console.print(f"[bold]{precision.upper()}: {_tally(part)}[/]")
        _print_changes(console, part["changes"], everything=everything)
    console.print()
    console.print(
        "[dim]An interval wholly inside `same within` is the same, one wholly beyond it regressed "
        "or better, any other can't tell; pt are percentage points.[/]"
    )


def _tally(part: Document) -> str:
    counted = ", ".join(f"{part['counts'][verdict]} {verdict}" for verdict in _ORDER)
    return f"{counted} (the same bytes in both)" if part["same_bytes"] else counted


def _print_changes(console: Console, changes: list[Document], *, everything: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from flows.display import COMFORTABLE_WIDTH

    narrow = console.width < COMFORTABLE_WIDTH
    shown = [one for one in changes if one["interval"] and (everything or one["verdict"] != "same")]
    table = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", overflow="fold")
    for column in ("A", "B", "B against A [interval]", "same within", "verdict"):
        table.add_column(column.replace(" w", "\nw"), no_wrap=True)
    for one in sorted(shown, key=lambda one: _ORDER.index(one["verdict"])):
        verdict = f"[{_STYLES[one['verdict']]}]{one['verdict']}[/]"
        metric = one["metric"].replace(".", ".\n", 1) if narrow else one["metric"]
        cells = (metric, *_values(one), _change(one), _margin(one))
        table.add_row(*map(escape, cells), verdict)
    if shown:
        console.print(table)
    for reason, metrics in _without_interval(changes).items():
        console.print(f"[yellow]can't tell[/], {escape(reason)}: {', '.join(metrics)}")


def _without_interval(changes: list[Document]) -> dict[str, list[str]]:
    """Give the metrics that could not be compared by the reason why."""
    about: dict[str, list[str]] = {}
    for one in changes:
        if not one["interval"]:
            about.setdefault(one["method"], []).append(one["metric"])
    return about


def _values(change: Document) -> tuple[str, str]:
    before, after = (change[side]["value"] for side in ("before", "after"))
    return figure(before), figure(after)


def _change(change: Document) -> str:
    ends = [change["difference"], *_bounds(change["interval"])]
    if change["said"] == "ratio":
        first, low, high = (figure(end) for end in ends)
        return f"x {first} [{low}, {high}]"
    if change["said"] == "points":
        return "{:+.2f} [{:+.2f}, {:+.2f}] pt".format(*(100 * end for end in ends))
    first, low, high = (_signed(end) for end in ends)
    return first if low == high else f"{first} [{low}, {high}]"


def _bounds(interval: list[float | None]) -> tuple[float, float]:
    low, high = interval
    return -math.inf if low is None else low, math.inf if high is None else high


def _margin(change: Document) -> str:
    margin = change["margin"]
    if change["said"] == "ratio":
        return f"{100 * margin:.3g} %"
    return f"{100 * margin:g} pt" if change["said"] == "points" else figure(margin)


def _signed(value: float) -> str:
    return f"+{figure(value)}" if value > 0 else figure(value)
