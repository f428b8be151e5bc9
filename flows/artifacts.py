"""What a run shows in the Prefect UI, under keys that stay the same from run to run.

Stable keys make a timeline: `ingot-releases` has one line a release of this server, and
`ingot-releases-NAME` those of one model. No link leads to the report: browsers follow no `file:`
link from a served page, so its path is there to be copied.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import ParamSpec, TypeVar, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run

from tasks.core.records import Environment, Release
from tasks.report.markdown import environment_rows, release_markdown, variants_rows
from tasks.report.markup import escaped, table
from tasks.report.proposal import proposal_markdown
from tasks.report.timeline import timeline_row

log = logging.getLogger(__name__)

SHOWN_RELEASES = 20
HOW_TO_ANSWER = (
    "To answer: open the run `approve-…` under *Subflow Runs* of this run, press **Resume**, and "
    "choose promote or reject."
)

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
    description = f"{what} of {flow_run.get_name()}: {', '.join(sorted(futures))}"
    artifact = cast("UUID", create_progress_artifact(0.0, key=key, description=description))
    for done, _ in enumerate(as_completed(list(futures.values())), start=1):
        update_progress_artifact(artifact, progress=100.0 * done / len(futures))


@decoration
def show_release(release: Release) -> None:
    """Publish the variants, the verdict, and the lines of the timelines."""
    create_table_artifact(
        key="ingot-variants",
        table=variants_rows(release, intervals=False),
        description=f"Variants of {escaped(release.name)}, run `{release.run_id}`.",
    )
    create_markdown_artifact(
        key="ingot-verdict",
        markdown=release_markdown(release),
        description=f"What ships of {escaped(release.name)}, and why.",
    )
    row = timeline_row(release, datetime.now(UTC))
    _show_timeline("ingot-releases", row, hide=["run"])
    _show_timeline(key_of_name(release.name), row, hide=["run", "model"])


def _show_timeline(key: str, row: dict[str, str], *, hide: list[str]) -> None:
    """Put a row on top of those of the releases before.

    The page of a key shows, of all its artifacts, the description of the newest and nothing else
    (looked at, 3.8.8, V1 and V2): so the newest has to hold the older ones' rows, too.
    """
    with get_client(sync_client=True) as client:
        before = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            sort=ArtifactSort.CREATED_DESC,
            limit=SHOWN_RELEASES - 1,
        )
    # The first row of each is its own run's: what two runs wrote at once is in both.
    rows = [row, *(json.loads(str(one.data))[0] for one in before)]
    shown = [{name: one.get(name, "") for name in row if name not in hide} for one in rows]
    create_table_artifact(key=key, table=rows, description=table(shown))


@decoration
def show_proposal(release: Release) -> None:
    """Publish what somebody has to decide, on the page of the run that waits for it."""
    create_markdown_artifact(
        key="ingot-approval",
        markdown=f"{proposal_markdown(release)}\n{HOW_TO_ANSWER}\n",
        description=f"{escaped(release.name)} waits for a decision.",
    )


def key_of_name(name: str) -> str:
    """Give the key of a model's own timeline: Prefect takes lower case, digits and dashes."""
    return f"ingot-releases-{re.sub(r'[^a-z0-9]+', '-', name.lower())}"
