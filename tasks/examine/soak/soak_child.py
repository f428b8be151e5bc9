"""The child of `soak.py`: the long run of one variant, its rows and what they say."""

from __future__ import annotations

from tasks.core.errors import VariantUnusable
from tasks.core.progress import report_progress
from tasks.core.records import Evidence
from tasks.examine.metrics import none_measured
from tasks.examine.soak.generations import FreshGenerations, OnGeneration
from tasks.examine.soak.leak import METRIC_NAMES, soak_metrics
from tasks.examine.soak.loop import soaked
from tasks.examine.soak.memory_sampler import memory_sampler
from tasks.examine.soak.soak import SoakChildRequest


def examine(request: SoakChildRequest, on_generation: OnGeneration | None = None) -> Evidence:
    """Soak one variant; one that fails underway is measured by nothing.

    Args:
        request: what to soak, and for how long.
        on_generation: how tests plant leaks, see `FreshGenerations`.
    """
    report_progress("loading the variant")
    protocol = request.protocol
    try:
        engine = FreshGenerations(request.folder, seed=protocol.seed, on_generation=on_generation)
        soak = soaked(engine, protocol.soak, sampler=memory_sampler())
    except VariantUnusable as problem:
        return _failed(request, problem)
    soak.frame().to_parquet(request.frames / "memory.parquet")
    return Evidence(
        suite="soak",
        subject=request.digest,
        metrics=soak_metrics(soak.series(), samples=protocol.bootstrap_samples, seed=protocol.seed),
    )


def _failed(request: SoakChildRequest, problem: VariantUnusable) -> Evidence:
    reason = f"not measured: {problem.message}"
    return Evidence(
        suite="soak",
        subject=request.digest,
        metrics=none_measured(METRIC_NAMES, reason),
        notes=[problem.message],
    )
