"""The Prefect face of the environment check and the forecast."""

from __future__ import annotations

from prefect import task

from tasks.core.progress import step
from tasks.core.records import Checkpoint, Environment, Forecast, Recipe
from tasks.core.settings import Settings
from tasks.core.task import RETRYING, UNCACHED
from tasks.environment import check, forecast


@task(name="check environment", task_run_name="check environment", **RETRYING, **UNCACHED)
def check_environment() -> Environment:
    """Look at the machine, the packages and the Foundry Local runtime."""
    with step("check environment") as say:
        environment = check.check_environment(Settings(), say=say)
        say(check.in_one_line(environment))
    return environment


@task(name="forecast builds", task_run_name="forecast builds", **UNCACHED)
def forecast_builds(
    environment: Environment, checkpoint: Checkpoint, recipes: list[Recipe]
) -> list[Forecast]:
    """Say what builds and examinations will need; refuse with numbers what is not there."""
    with step("forecast builds") as say:
        forecasts = [forecast.forecast_build(checkpoint, recipe) for recipe in recipes]
        examinations = [forecast.forecast_examination(checkpoint, recipe) for recipe in recipes]
        forecast.require_fit(environment, forecasts, examinations)
        say(forecast.in_one_line(forecasts, examinations))
    return forecasts
