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
    """Look at the machine, the packages and the Foundry Local runtime; refuse what is unfit."""
    with step("check environment") as say:
        environment = check.check_environment(Settings(), say=say)
        check.require_fit_environment(environment)
        say(check.in_one_line(environment))
    return environment


@task(name="forecast builds", task_run_name="forecast builds", **UNCACHED)
def forecast_builds(
    environment: Environment, checkpoint: Checkpoint, recipes: list[Recipe]
) -> list[Forecast]:
    """Say what each build will need, and refuse with numbers what this machine does not have."""
    with step("forecast builds") as say:
        forecasts = [forecast.forecast_build(checkpoint, recipe) for recipe in recipes]
        forecast.require_fit(environment, forecasts)
        say(forecast.in_one_line(forecasts))
    return forecasts
