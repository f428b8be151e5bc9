"""The report as one HTML page: no script, no network, no file but itself.

Runs in a child process, and is made from the run's folder alone, so that it can be made again.
What the page says is written in the modules beside this one.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tasks.core.files import write_text_atomically
from tasks.core.progress import report_progress
from tasks.report import contents
from tasks.report.html.drawing import Material, NothingToDraw
from tasks.report.html.examples import changes
from tasks.report.html.page_records import PAGE, PageRequest, PageSummary
from tasks.report.html.plots import Plot, draw_all
from tasks.report.html.tables import (
    Methods,
    all_figures,
    categories,
    controls,
    gates_of,
    side_by_side,
)
from tasks.report.html.verdict import verdict_of
from tasks.report.load import Run, load_run
from tasks.report.remarks import failures_in_words, remarks
from tasks.report.usage import how_to_use

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_CONTROL_PICTURES = 0x2400
_DELETE = 0x7F

Found = TypeVar("Found")


@dataclass(frozen=True)
class Part(Generic[Found]):
    """What a run may lack: what was found, or why there is nothing."""

    found: Found | None
    why_not: str = ""


def render_page(request: PageRequest) -> PageSummary:
    """Write `report.html` into a run's folder.

    Raises:
        InputError: the folder holds no run that can be read.
    """
    report_progress("drawing the plots")
    material = Material(load_run(request.folder))
    plots = draw_all(material)
    report_progress("writing the page")
    page = page_of(material, plots)
    write_text_atomically(request.folder / PAGE, page)
    return PageSummary(
        size_bytes=len(page.encode()),
        without={plot.name: plot.why_not for plot in plots if plot.why_not},
    )


def page_of(material: Material, plots: Iterable[Plot]) -> str:
    """Give the page as text; the same run gives the same text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,  # answers, names and notes are anybody's text
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = [(plot, Markup(plot.svg)) for plot in plots]  # noqa: S704  (matplotlib's, escaped there)
    style = Markup((_HERE / "style.css").read_text(encoding="utf-8"))  # noqa: S704  (our own file)
    page = environment.get_template("page.html").render(
        style=style, plots=drawn, **_content(material)
    )
    return page.lstrip()


def _content(material: Material) -> dict[str, Any]:
    """Gather everything that the template shows, by the names that it uses."""
    run = material.run
    release, methods = run.release, Methods()
    return {
        "run": run,
        "release": release,
        "verdict": verdict_of(release),
        "variants": [(subject.label, subject) for subject in material.subjects],
        "rows": side_by_side(release, methods),
        "care": [*failures_in_words(release.failures), *remarks(release)],
        "changes": _part(lambda: changes(material)),
        "categories": _part(lambda: categories(material)),
        "gates": [gates_of(verdict) for verdict in release.judgement.verdicts],
        "controls": controls(release, run.evidence),
        "groups": all_figures(release, methods),
        "methods": methods.listed(),
        "usage": how_to_use(release, run.document.index),
        "notes": list(contents.notes(release, run.evidence)),
        "not_measured": [*contents.not_measured(release), *_missing(run)],
        "not_applicable": list(contents.not_applicable(release)),
        "built": contents.built_rows(release.variants),
        "environment": contents.environment_rows(release.environment),
        "timings": contents.timing_rows(run.timings, release.seconds),
        "asked": contents.asked_what(release),
        "files": list(contents.files(run.document.frames.rows)),
    }


def _missing(run: Run) -> list[str]:
    return [f"raw rows missing: {what}" for what in run.document.frames.missing]


def _part(gather: Callable[[], Found]) -> Part[Found]:
    """Let no section stop the page: it says why it is empty."""
    try:
        return Part(gather())
    except NothingToDraw as nothing:
        return Part(None, str(nothing))
    except Exception as problem:
        log.exception("a section of the page could not be made")
        return Part(None, f"could not be made: {problem}")


def visible(value: object) -> object:
    """Show characters that would hide or turn text around; leave markup of our own alone."""
    if type(value) is not str:
        return value
    return "".join(map(_shown, value))


def _shown(character: str) -> str:
    code = ord(character)
    if character in "\n " or character.isprintable():
        return character
    if code < ord(" "):
        return chr(_CONTROL_PICTURES + code)
    if code == _DELETE:
        return "␡"
    # Format marks, such as those that turn the direction, half surrogates, odd white space.
    return f"⟨U+{code:04X}⟩" if unicodedata.category(character) != "Zs" else character
