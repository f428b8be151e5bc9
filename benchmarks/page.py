"""`docs/benchmarks.md` from what is kept: targets, tables, plots, and under what it was measured.

Measures nothing, so it can be written anew at any time; what is not kept is "not measured".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.arithmetic import Figure, rounded
from benchmarks.kept import Kept
from benchmarks.records import NOT_MEASURED, Plot, Section, Table
from benchmarks.runner import LOAD
from benchmarks.targets import TARGETS, Target, Verdict

_HEAD = """# Benchmarks

Written by `make bench` (`python -m benchmarks`) from what it measured; not edited by hand.

Every figure is the median of the rounds of one run, with the least and the greatest round in
brackets. In a round each lane runs once, in random order, in processes of its own; ratios and
differences are taken within a round. Peak RAM is that of the largest process, counted by the
kernel. Absolute figures are of this machine and this load; none of them is a test.
"""

Draw = Callable[[Plot, Path], None]


def write_page(
    sections: Sequence[Section], results: Path, page: Path, images: Path, draw: Draw
) -> None:
    """Write the page and its plots.

    Args:
        sections: in the order of the page.
        results: folder of what is kept.
        page: the file that is written.
        images: folder of the plots.
        draw: draws a plot into a file.
    """
    kept = {section.name: Kept.read(results, section.name) for section in sections}
    parts = [_HEAD, targets_in_words(sections, kept)]
    for section in sections:
        parts.append(_section_in_words(section, kept[section.name]))
        found = kept[section.name]
        for plot in section.plots(found) if found else ():
            image = images / f"benchmark-{plot.name}.svg"
            draw(plot, image)
            place = f"{images.relative_to(page.parent).as_posix()}/{image.name}"
            parts.append(f"![{plot.title}: {plot.axis}]({place})\n")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts), encoding="utf-8", newline="\n")


def targets_in_words(
    sections: Sequence[Section],
    kept: Mapping[str, Kept | None],
    targets: Sequence[Target] = TARGETS,
) -> str:
    """Show each target beside its figure."""
    figures = {
        section.name: section.figures(found) if (found := kept.get(section.name)) else {}
        for section in sections
    }
    rows = []
    for target in targets:
        figure = figures.get(target.section, {}).get(target.figure)
        rows.append(
            [target.words, target.bound, _figure_in_words(figure), target.verdict(figure).value]
        )
    table = table_in_words(Table("Targets", ["what", "target", "measured", ""], rows))
    count = sum(row[-1] == Verdict.KEPT for row in rows)
    return f"{table}\n{count} of {len(rows)} kept.\n"


def _figure_in_words(figure: Figure | None) -> str:
    if figure is None:
        return NOT_MEASURED
    known = figure.value is None and figure.reason not in ("", NOT_MEASURED)
    return f"{NOT_MEASURED}: {figure.reason}" if known else figure.in_words()


def _section_in_words(section: Section, kept: Kept | None) -> str:
    lines = [f"## {section.title}\n", f"{section.about}\n"]
    if kept is None or kept.samples.empty:
        reasons = dict(kept.conditions.not_measured) if kept else {}
        lines.append("Not measured.\n")
        lines.extend(f"- {lane}: {reason}" for lane, reason in reasons.items())
        return "\n".join(lines)
    lines += [table_in_words(table) for table in section.tables(kept)]
    lines.append(conditions_in_words(kept))
    return "\n".join(lines)


def table_in_words(table: Table) -> str:
    """Give a table in Markdown."""
    lines = [f"**{table.title}**\n", _row(table.header), _row(["---"] * len(table.header))]
    lines += [_row(row) for row in table.rows]
    return "\n".join([*lines, "", *([f"{table.note}\n"] if table.note else [])])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def conditions_in_words(kept: Kept) -> str:
    """Say where, when, with what and under what load a section was measured."""
    found = kept.conditions
    rounds = kept.samples.groupby("lane")["round"].nunique()
    least, most = int(rounds.min()), int(rounds.max())
    counted = f"{most}" if least == most else f"{least} to {most}"
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    lines = [
        (
            f"<sub>{found.machine}; {versions}. Commit {found.revision}, {found.ended} UTC. "
            f"Rounds: {counted} of {found.rounds} asked for; {_load_in_words(kept)}. "
            f"Plan: {found.plan}.</sub>\n"
        )
    ]
    if found.not_measured:
        lines.append("Not measured:\n")
        lines += [f"- {lane}: {reason}" for lane, reason in found.not_measured.items()]
        lines.append("")
    return "\n".join(lines)


def _load_in_words(kept: Kept) -> str:
    loads = kept.samples[kept.samples["metric"] == LOAD]["value"]
    if loads.empty or not math.isfinite(float(loads.median())):
        return "load unknown"
    least, middle, most = (rounded(float(x), 2) for x in (loads.min(), loads.median(), loads.max()))
    return f"load average before each measurement {middle} [{least}, {most}]"
