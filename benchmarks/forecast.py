"""What `ingot check` and a release forecast, against what building then took.

Each precision is built by itself, by the builder that a release uses.
"""

from __future__ import annotations

from functools import partial

from benchmarks.arithmetic import Figure
from benchmarks.build_variants import newest_builder, recipes_for
from benchmarks.checkpoints import checkpoint_of, record_of
from benchmarks.fan_out import build_cost
from benchmarks.growth import require_memory
from benchmarks.kept import Kept
from benchmarks.places import Work
from benchmarks.records import WITH_REFERENCE, Lane, Plan, Readings, Section, Table
from benchmarks.runner import run_rounds
from tasks.core.records import Precision
from tasks.environment.forecast import forecast_build

# Forecast to the metric of the truth.
_TRUTHS = {
    "seconds": "seconds",
    "peak_rss_bytes": "peak_rss_bytes",
    "disk_bytes": "peak_disk_bytes",
}


def measure(work: Work, plan: Plan, kept: Kept) -> None:
    """Build each precision of each size by itself, once a round."""
    lanes = [
        Lane(_lane_of(size, precision), partial(_run, size, precision, work, plan))
        for size in plan.sizes
        for precision in WITH_REFERENCE
    ]
    run_rounds(lanes, plan, kept)


def _lane_of(size: float, precision: Precision) -> str:
    return f"{size:g} B {precision.name}"


def _run(size: float, precision: Precision, work: Work, plan: Plan, _round: int) -> Readings:
    model, builder = checkpoint_of(size, work), newest_builder()
    (recipe,) = recipes_for([precision], builder)
    forecast = forecast_build(record_of(model), recipe)
    require_memory(forecast.peak_rss_bytes)
    cost = build_cost(model, builder, [precision], work, plan)
    foretold = forecast.model_dump(include=set(_TRUTHS))
    return {**cost, **{f"forecast_{name}": float(value) for name, value in foretold.items()}}


def tables(kept: Kept) -> list[Table]:
    """Show forecast over truth: above 1 is on the safe side."""
    return [
        Table(
            "Forecast over truth",
            ["build", "time", "peak RAM", "peak disk"],
            [
                [lane, *(_over(kept, lane, name).in_words() for name in _TRUTHS)]
                for lane in _lanes(kept)
            ],
            "Memory and disk decide whether a release is begun; there, below 1 is an error.",
        )
    ]


def _lanes(kept: Kept) -> list[str]:
    return sorted({*kept.lanes(), *kept.conditions.not_measured}, key=_order)


def _order(lane: str) -> tuple[float, str]:
    return float(lane.split(maxsplit=1)[0]), lane


def _over(kept: Kept, lane: str, name: str) -> Figure:
    foretold, truth = kept.values(lane, f"forecast_{name}"), kept.values(lane, _TRUTHS[name])
    found = {number: foretold[number] / truth[number] for number in truth if truth[number] > 0}
    return Figure.of(found, kept.why_not(lane))


SECTION = Section(
    name="forecast",
    title="Forecast against truth",
    about="Each precision built by itself, the child's cost against its forecast.",
    settings=("sizes", "threads"),
    measure=measure,
    tables=tables,
    figures=lambda _kept: {},
)
