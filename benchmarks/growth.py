"""How time, memory and disk grow with the number of parameters, all variants in one release."""

from __future__ import annotations

from functools import partial

import psutil

from benchmarks.arithmetic import Figure, slope
from benchmarks.build_variants import Builder, newest_builder
from benchmarks.checkpoints import SHAPES, checkpoint_of, record_of
from benchmarks.fan_out import build_cost
from benchmarks.kept import Kept
from benchmarks.machine import GIB
from benchmarks.places import Work
from benchmarks.records import (
    VARIANTS,
    Lane,
    Line,
    NotMeasured,
    Plan,
    Plot,
    Readings,
    Section,
    Table,
)
from benchmarks.runner import run_rounds
from tasks.core.records import Checkpoint
from tasks.environment.forecast import forecast_build
from tasks.variants.recipes import plan_recipes

METRICS = {"time": "seconds", "memory": "peak_rss_bytes", "disk": "peak_disk_bytes"}
_UNITS = {"time": 1.0, "memory": 1 / GIB, "disk": 1e-9}
_SPARE_BYTES = GIB


def measure(work: Work, plan: Plan, kept: Kept) -> None:
    """Build all variants of each size, once a round."""
    run_rounds(
        [Lane(lane_of(size), partial(_run, size, work, plan)) for size in plan.sizes], plan, kept
    )


def lane_of(size: float) -> str:
    """Name the lane of a size."""
    return f"{size:g} B"


def _run(size: float, work: Work, plan: Plan, _round: int) -> Readings:
    model = checkpoint_of(size, work)
    builder = newest_builder()
    if builder is Builder.PLAIN:  # what the fast one needs is what is measured here
        require_memory(max(_plain_forecasts(record_of(model))))
    return {
        **build_cost(model, builder, VARIANTS, work, plan),
        "parameters": float(record_of(model).parameters),
        "is_fast": float(builder is Builder.FAST),
    }


def _plain_forecasts(checkpoint: Checkpoint) -> list[int]:
    return [forecast_build(checkpoint, recipe).peak_rss_bytes for recipe in plan_recipes(VARIANTS)]


def require_memory(needed: int) -> None:
    """Refuse a build that this machine cannot hold.

    Raises:
        NotMeasured: with what is needed and what is free.
    """
    free = psutil.virtual_memory().available - _SPARE_BYTES
    if needed > free:
        raise NotMeasured(f"needs {needed / GIB:.1f} GiB of memory, {free / GIB:.1f} are free")


def figures(kept: Kept) -> dict[str, Figure]:
    """Give the slopes."""
    return {f"{name}_slope": _slope(kept, metric) for name, metric in METRICS.items()}


def _slope(kept: Kept, metric: str) -> Figure:
    lanes = kept.lanes()
    by_size = {
        parameters: kept.values(lane, metric)
        for lane in lanes
        if (parameters := kept.figure(lane, "parameters").value) is not None
    }
    return slope(by_size)


def _measured_lanes(kept: Kept) -> list[str]:
    known = [lane_of(size) for size in SHAPES]
    return [lane for lane in known if lane in kept.lanes() or kept.why_not(lane)]


def tables(kept: Kept) -> list[Table]:
    """Show each size, and the slopes."""
    rows = [
        [
            lane,
            *(kept.figure(lane, METRICS[name]).scaled(_UNITS[name]).in_words() for name in METRICS),
            kept.figure(lane, "cpu_s").in_words(),
        ]
        for lane in _measured_lanes(kept)
    ]
    slopes = ", ".join(
        f"{name} {figure.in_words()}" for name, figure in figures(kept).items()
    ).replace("_", " ")
    kinds = {value for lane in kept.lanes() for value in kept.values(lane, "is_fast").values()}
    how = {frozenset({1.0}): "all at once", frozenset({0.0}): "one by one"}
    return [
        Table(
            "Growth",
            ["parameters", "wall s", "peak RAM GiB", "peak disk GB", "CPU s"],
            rows,
            f"Built {how.get(frozenset(kinds), 'in different ways')}. Log-log slopes: {slopes}; "
            "1 is in proportion.",
        )
    ]


def plots(kept: Kept) -> list[Plot]:
    """Draw the three on logarithmic scales."""
    lines = []
    for name, metric in METRICS.items():
        points = [
            (parameters / 1e9, value * _UNITS[name])
            for lane in _measured_lanes(kept)
            if (parameters := kept.figure(lane, "parameters").value) is not None
            and (value := kept.figure(lane, metric).value) is not None
        ]
        unit = {"time": "s", "memory": "GiB", "disk": "GB"}[name]
        if points:
            lines.append(Line(f"{name}, {unit}", points))
    if not lines:
        return []
    return [Plot("growth", "Three variants, by size", "billions of parameters", lines=lines)]


SECTION = Section(
    name="growth",
    title="Growth with the checkpoint",
    about="INT4, INT8 and FP16 of random checkpoints of Qwen2.5's shape, of several sizes.",
    settings=("sizes", "threads"),
    measure=measure,
    tables=tables,
    figures=figures,
    plots=plots,
)
