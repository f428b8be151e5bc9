"""All sections, in the order of the page and of `make bench`: the short ones first."""

from __future__ import annotations

from benchmarks import decode, fan_out, forecast, growth, orchestration, rerun, start_up
from benchmarks.records import Plan, Section

SECTIONS: tuple[Section, ...] = (
    start_up.SECTION,
    fan_out.SECTION,
    decode.SECTION,
    growth.SECTION,
    forecast.SECTION,
    orchestration.SECTION,
    rerun.SECTION,
)


def plan_of(section: Section, plan: Plan) -> str:
    """Write down the part of a plan that decides what a section measures."""
    return ", ".join(f"{name} {getattr(plan, name)}" for name in ("seed", *section.settings))
