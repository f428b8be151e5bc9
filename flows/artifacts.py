"""What a run shows in the Prefect UI, under keys that stay the same from run to run.

Stable keys make a timeline: how the releases of this server went, one under the other.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.futures import PrefectFuture, as_completed

from tasks.core.records import Environment, Release
from tasks.report.markdown import environment_rows, release_markdown, variants_rows

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")


def decoration(show: Callable[P, None]) -> Callable[P, None]:
    """Let a picture that cannot be shown stop no release: the report has all of it."""

    @functools.wraps(show)
    def guarded(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            show(*arguments, **options)
        except Exception:
            log.exception("%s could not be shown in the Prefect UI", show.__name__)

    return guarded


@decoration
def show_environment(environment: Environment) -> None:
    """Publish the environment table."""
    create_table_artifact(
        key="ingot-environment",
        table=environment_rows(environment),
        description="The machine, the packages against their pins, and Foundry Local.",
    )


def follow(what: str, futures: Mapping[str, PrefectFuture[T]]) -> Mapping[str, PrefectFuture[T]]:
    """Show the progress of a fan-out until every task has ended; gives the futures back."""
    _show_progress(what, futures)
    return futures


@decoration
def _show_progress(what: str, futures: Mapping[str, PrefectFuture[T]]) -> None:
    key = f"ingot-{what}"
    description = f"{what}: {', '.join(sorted(futures))}"
    artifact = cast("UUID", create_progress_artifact(0.0, key=key, description=description))
    for done, _ in enumerate(as_completed(list(futures.values())), start=1):
        update_progress_artifact(artifact, progress=100.0 * done / len(futures))


@decoration
def show_release(release: Release) -> None:
    """Publish the variants table and the verdict."""
    create_table_artifact(
        key="ingot-variants",
        table=variants_rows(release, intervals=False),
        description=f"Variants of {release.name}, run {release.run_id}.",
    )
    create_markdown_artifact(
        key="ingot-verdict",
        markdown=release_markdown(release),
        description=f"What ships of {release.name}, and why.",
    )
