"""What a run shows in the Prefect UI, under keys that stay the same from run to run.

Stable keys make a timeline: how the releases of this server went, one under the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, cast
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

T = TypeVar("T")


def show_environment(environment: Environment) -> None:
    """Publish the environment table."""
    create_table_artifact(
        key="ingot-environment",
        table=environment_rows(environment),
        description="The machine, the packages against their pins, and Foundry Local.",
    )


def follow(what: str, futures: Mapping[str, PrefectFuture[T]]) -> Mapping[str, PrefectFuture[T]]:
    """Show the progress of a fan-out until every task has ended; gives the futures back."""
    key = f"ingot-{what}"
    description = f"{what}: {', '.join(sorted(futures))}"
    artifact = cast("UUID", create_progress_artifact(0.0, key=key, description=description))
    for done, _ in enumerate(as_completed(list(futures.values())), start=1):
        update_progress_artifact(artifact, progress=100.0 * done / len(futures))
    return futures


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
