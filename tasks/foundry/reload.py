"""Load a model in Foundry Local, ask it and unload it, over and over: does its memory come back?

The parent side of `reload_child.py`. Works on any model index and registers nothing, so it can be
put to the production index too; how much growth is too much is the policy's business.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from tasks.core.child import Usage, run_child
from tasks.core.records import Cost, Digest, Evidence, Measurement, Message, Record
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of

GROWTH = "foundry.reload_growth_bytes"
DEADLINE_S = 3600.0
# The first loads fill caches of the runtime: 0.1 MiB, then flat (measured, 2.2.1).
WARM_UPS = 2
LEAST_CYCLES = 4


class ReloadRequest(Record):
    """What the child is asked for.

    Attributes:
        index: a model index in which the model is registered.
        app_data: where the runtime writes its own log files.
        messages: asked each time, answered with a few tokens.
        cycles: after the warm-up.
        frames: gets `foundry_cycles.parquet`: a row a cycle.
    """

    index: Path
    app_data: Path
    model_id: str
    messages: list[Message]
    cycles: int = Field(ge=LEAST_CYCLES)
    frames: Path


class Reloaded(Record):
    """What came of it: growth in bytes a cycle, and remarks."""

    growth: Measurement
    notes: list[str]


def cycle_loads(
    request: ReloadRequest, *, log: Path, say: Callable[[str], None]
) -> tuple[Reloaded, Usage]:
    """Load, ask and unload a registered model in a child process of its own.

    Returns:
        The growth, without a value when the model does not load, does not answer or is not
        unloaded; and what the child cost.

    Raises:
        EnvironmentUnfit, TransientFault: this machine or the runtime itself is at fault.
    """
    return run_child(
        "tasks.foundry.reload_child:cycle",
        request,
        Reloaded,
        log=log,
        deadline_s=DEADLINE_S,
        on_progress=say,
    )


def reload_champion(
    settings: Settings,
    model_id: str,
    variant: Digest,
    messages: list[Message],
    *,
    cycles: int,
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> Evidence:
    """Put the cycles to a model of the production index, which is only read.

    Args:
        settings: where index, store and logs are.
        model_id: `<name>-<precision>-cpu:<N>`.
        variant: digest of its files.
        messages: a conversation that fits into its context.
        cycles: at least `LEAST_CYCLES`.
        say: gets one line of progress.

    Returns:
        Evidence of suite `foundry` with this one metric, its rows published.
    """
    store = store_of(settings)
    with store.staging() as frames:
        request = ReloadRequest(
            index=settings.foundry,
            app_data=settings.logs / "foundry",
            model_id=model_id,
            messages=messages,
            cycles=cycles,
            frames=frames,
        )
        found, usage = cycle_loads(
            request, log=settings.logs / f"foundry-reload-{variant[:12]}.log", say=say
        )
        published = store.publish(frames)
    return Evidence(
        suite="foundry",
        subject=variant,
        metrics={GROWTH: found.growth},
        notes=found.notes,
        frames=published,
        cost=Cost(seconds=usage.seconds, cpu_s=usage.cpu_s, peak_rss_bytes=usage.peak_rss_bytes),
    )
