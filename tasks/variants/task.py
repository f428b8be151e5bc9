"""The Prefect face of building: one cached task, for the reference and for each variant."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from prefect import task

from tasks.core.budget import GIB
from tasks.core.progress import step
from tasks.core.records import Checkpoint, Forecast, Recipe, Variant
from tasks.core.reservations import reserve_memory
from tasks.core.settings import Settings
from tasks.core.task import Inputs, cached
from tasks.variants import build
from tasks.variants.toolchain import toolchain

MEMORY_MARGIN = 1.5  # the forecast is a line through few measurements


def _depends_on(inputs: Inputs) -> list[object]:
    return [inputs["checkpoint"].digest, inputs["recipe"], toolchain()]


@task(name="build variant", task_run_name="build {recipe.precision}", **cached(_depends_on))
def build_variant(
    checkpoint: Checkpoint, recipe: Recipe, forecast: Forecast, siblings: Sequence[Recipe] = ()
) -> Variant:
    """Build one variant, with those siblings that are still to be built, and publish it whole.

    Memory is reserved by whoever builds, and to probe: a step that waits for another's build holds
    none.
    """
    limit = int(MEMORY_MARGIN * forecast.peak_rss_bytes) + GIB
    with step(f"build {recipe.precision}") as say:
        label = f"build {recipe.precision} of {checkpoint.name}"
        variant = build.build_variant(
            checkpoint,
            recipe,
            settings=Settings(),
            siblings=siblings,
            forecast_bytes=forecast.peak_rss_bytes,
            memory_limit_bytes=limit,
            reserve=partial(reserve_memory, step=label, say=say),
            say=say,
        )
        say(
            f"{variant.size_bytes / 1e6:,.2f} MB, peak {variant.build_peak_rss_bytes / GIB:.1f} GiB"
        )
    return variant
