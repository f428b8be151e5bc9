"""What a person is shown before the champion is changed: verdict, variants, where the report is.

Arranges what was measured and judged; asks nobody.
"""

from __future__ import annotations

from tasks.core.figures import MB, NOT_MEASURED, figure
from tasks.core.records import Release
from tasks.report.contents import label_of
from tasks.report.markdown import variants_rows
from tasks.report.markup import Rows, bullets, escaped, table
from tasks.report.remarks import clock_doubt, failures_in_words


def proposal_rows(release: Release) -> Rows:
    """Give one row: the champion now, and what is proposed in its place.

    Raises:
        ValueError: nothing is proposed, or nobody is asked.
    """
    chosen = next((v for v in release.variants if v.digest == release.judgement.champion), None)
    if chosen is None or release.approval is None:
        raise ValueError("a proposal is a variant that passed, and somebody who is asked")
    megabytes = figure(round(chosen.size_bytes / MB, 2))
    return [
        {
            "champion now": release.approval.instead_of or "none",
            "proposed": f"{label_of(chosen)} of {release.name}, {megabytes} MB",
        }
    ]


def proposal_markdown(release: Release) -> str:
    """Write the proposal, what was measured, and where every gate can be read.

    Narrow, a column a variant: Prefect shows it in a box of 440 pixels (3.8.8).

    Raises:
        ValueError: nothing is proposed, or nobody is asked.
    """
    doubts = failures_in_words(release.failures)
    if doubt := clock_doubt(release):
        doubts.append(f"Speed: {doubt}")
    sections = [
        table(proposal_rows(release)),
        f"The gates say: **{escaped(release.judgement.reason)}**",
        table(_side_by_side(variants_rows(release, intervals=False))),
        bullets(doubts),
        f"Every gate, with plots, is in the report on the machine of the run: `{release.report}`",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _side_by_side(rows: Rows) -> Rows:
    """Turn one row a variant into one row a figure."""
    figures = [name for name in rows[0] if name != "variant"] if rows else []
    return [
        {"": name, **{row["variant"]: row[name].replace(NOT_MEASURED, "-") for row in rows}}
        for name in ("verdict", *(name for name in figures if name != "verdict"))
    ]
