"""A release as one row, comparable from release to release.

Arranges what was measured and decided; where the rows are shown is the flow's business.
"""

from __future__ import annotations

from datetime import datetime

from tasks.core.figures import MB, NOT_MEASURED, figure, figure_of
from tasks.core.records import Measurement, Release, Variant
from tasks.report.approval import fate_of_chosen, is_withheld
from tasks.report.contents import label_of


def timeline_row(release: Release, ended: datetime) -> dict[str, str]:
    """Give the figures of the variant that was chosen, by which releases of one name compare.

    Short names, no intervals: nine columns have to fit Prefect's page.

    Args:
        release: the outcome.
        ended: when, UTC.
    """
    chosen = _chosen(release)
    found = release.metrics.get(chosen.digest, {}) if chosen else {}
    return {
        "when": f"{ended:%Y-%m-%d %H:%M}",
        "model": release.name,
        "outcome": outcome_of(release),
        "champion": release.registration.model_id if release.registration else "unchanged",
        "MB": figure(round(chosen.size_bytes / MB, 2)) if chosen else NOT_MEASURED,
        "KL": _point(found.get("fidelity.kld_mean")),
        "flips": _point(found.get("answers.flip_rate")),
        "right": _point(found.get("answers.right")),
        "tokens/s": _point(found.get("speed.decode_tokens_per_s")),
        "run": release.run_id,
    }


def outcome_of(release: Release) -> str:
    """Say in a few words what came of a release."""
    chosen = _chosen(release)
    if chosen is None:
        return "unfinished" if release.environment_faults else "nothing passes"
    if release.registration is None and not is_withheld(release):
        return f"{label_of(chosen)} could not be registered"
    return f"{label_of(chosen)} {fate_of_chosen(release, short=True)}"


def _chosen(release: Release) -> Variant | None:
    return next((v for v in release.variants if v.digest == release.judgement.champion), None)


def _point(measurement: Measurement | None) -> str:
    """Write it without its interval, which is in the report: a row must fit the page."""
    return figure_of(measurement.model_copy(update={"ci95": None}) if measurement else None)
