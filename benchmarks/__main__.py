"""`python -m benchmarks [SECTION...]`, from the repository root: measure, and write the page.

Without a section all of them, the short ones first. What is measured is kept in `INGOT_BENCH`, else
`.bench`: an interrupted run goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

from benchmarks.kept import Kept
from benchmarks.machine import machine_in_words, revision, sources_digest, versions
from benchmarks.page import write_page
from benchmarks.places import IMAGES, PAGE, ROOT, Work
from benchmarks.plots import draw
from benchmarks.records import Conditions, NotMeasured, Plan, Section
from benchmarks.runner import tell
from benchmarks.sections import SECTIONS, plan_of
from benchmarks.targets import TARGETS
from tasks.core.errors import IngotError

ONLY_PAGE = "page"
_SIZES = "sizes"


def main() -> int:
    """Measure what is asked for, then write the page from all that is kept."""
    sys.path.insert(0, str(ROOT))  # for tests/, which is no installed package
    asked = arguments().parse_args()
    work = Work.chosen()
    plan = replace(Plan(), **{field.name: getattr(asked, field.name) for field in fields(Plan)})
    chosen = asked.section or [section.name for section in SECTIONS]
    for section in SECTIONS:
        if section.name in chosen:
            measure(section, work, plan, fresh=asked.fresh)
    write_page(SECTIONS, work.results, asked.page, asked.images, draw)
    tell(f"{asked.page} is written from {work.results}")
    return 0


def arguments() -> argparse.ArgumentParser:
    """Give the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").split("\n", 1)[0]
    )
    names = [section.name for section in SECTIONS]
    words = f"{', '.join(names)}; `{ONLY_PAGE}` measures nothing"
    parser.add_argument("section", nargs="*", choices=[*names, ONLY_PAGE, []], help=words)
    usual = Plan()
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--threads", type=int, default=usual.threads)
    parser.add_argument("--size", type=float, default=usual.size, help="of the checkpoint, in B")
    parser.add_argument(f"--{_SIZES}", type=float, nargs="+", default=usual.sizes, help="of growth")
    parser.add_argument("--prompt-tokens", type=int, default=usual.prompt_tokens)
    parser.add_argument("--new-tokens", type=int, default=usual.new_tokens)
    parser.add_argument("--questions", type=int, default=usual.questions)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--images", type=Path, default=IMAGES)
    return parser


def measure(section: Section, work: Work, plan: Plan, *, fresh: bool) -> None:
    """Measure what is missing of one section, and say how it did."""
    conditions = Conditions(
        section=section.name,
        plan=plan_of(section, plan),
        sources=sources_digest(),
        revision=revision(),
        machine=machine_in_words(),
        versions=versions(),
        rounds=plan.rounds,
    )
    resumed = Kept(work.results, conditions)
    if not fresh:
        resumed = Kept.resumed(work.results, conditions)
    try:
        section.measure(work, plan, resumed)
    except (NotMeasured, IngotError, OSError) as problem:
        resumed.give_up(section.title, str(problem))
        tell(f"{section.name} was not measured: {problem}")
    found = section.figures(resumed)
    for target in TARGETS:
        if target.section == section.name:
            figure = found.get(target.figure)
            words = figure.in_words() if figure else "not measured"
            tell(f"  {target.words}: {words}, {target.bound}: {target.verdict(figure).value}")


if __name__ == "__main__":
    sys.exit(main())
