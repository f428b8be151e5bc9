"""`ingot check`: the environment, and what a checkpoint's builds would need, without Prefect."""

from __future__ import annotations

from pathlib import Path

from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.budget import GIB
from tasks.core.records import SHIPPABLE, Environment, Forecast, Profile
from tasks.core.settings import Settings
from tasks.environment import check
from tasks.environment.forecast import forecast_build, require_fit
from tasks.report.markup import Rows
from tasks.variants.recipes import REFERENCE, plan_recipes


def check_machine(checkpoint: Path | None) -> tuple[Environment, list[Forecast]]:
    """Look at the machine; with a checkpoint, forecast each build.

    Raises:
        CheckpointRefused: it would not be admitted.
        DoesNotFit: a build needs more than this machine has.
    """
    environment = check.check_environment(Settings())
    if checkpoint is None:
        return environment, []
    found = admit_checkpoint(checkpoint)
    recipes = [REFERENCE, *plan_recipes(list(SHIPPABLE), profile=Profile.BALANCED)]
    forecasts = [forecast_build(found, recipe) for recipe in recipes]
    require_fit(environment, forecasts)
    return environment, forecasts


def forecast_rows(forecasts: list[Forecast]) -> Rows:
    """One row a build: peak memory, disk, time."""
    return [
        {
            "build": forecast.recipe.precision.value,
            "peak RAM GiB": f"{forecast.peak_rss_bytes / GIB:.1f}",
            "disk MB": f"{forecast.disk_bytes / 1e6:,.1f}",
            "seconds": f"{forecast.seconds:.0f}",
        }
        for forecast in forecasts
    ]
