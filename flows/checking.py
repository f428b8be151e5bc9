"""`ingot check`: the environment, and what a checkpoint's builds would need, without Prefect."""

from __future__ import annotations

from pathlib import Path

from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.budget import GIB
from tasks.core.records import SHIPPABLE, Environment, Forecast, Profile
from tasks.core.settings import Settings
from tasks.environment import check
from tasks.environment.forecast import (
    ExaminationForecast,
    forecast_build,
    forecast_examination,
    require_fit,
)
from tasks.report.markup import Rows
from tasks.variants.recipes import REFERENCE, plan_recipes


def check_machine(checkpoint: Path | None) -> tuple[Environment, Rows]:
    """Look at the machine; with a checkpoint, forecast each build and examination.

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
    examinations = [forecast_examination(found, recipe) for recipe in recipes]
    require_fit(environment, forecasts, examinations)
    return environment, [*map(_build_row, forecasts), *map(_examination_row, examinations)]


def _build_row(forecast: Forecast) -> dict[str, str]:
    return {
        "step": f"build {forecast.recipe.precision}",
        "peak RAM GiB": f"{forecast.peak_rss_bytes / GIB:.1f}",
        "disk MB": f"{forecast.disk_bytes / 1e6:,.1f}",
        "seconds": f"{forecast.seconds:.0f}",
    }


def _examination_row(forecast: ExaminationForecast) -> dict[str, str]:
    peak = f"{forecast.peak_rss_bytes / GIB:.1f}"
    return {"step": forecast.step, "peak RAM GiB": peak, "disk MB": "", "seconds": ""}
