"""The Prefect face of the soak: cached for releases, afresh for the soak of a champion."""

from __future__ import annotations

from typing import Any

from prefect import task

from tasks.core.budget import BASE_BYTES, loaded_bytes
from tasks.core.figures import figure_of
from tasks.core.progress import step
from tasks.core.records import Checkpoint, Environment, Evidence, Variant
from tasks.core.reservations import reserve_memory
from tasks.core.settings import Settings
from tasks.core.task import UNCACHED, Inputs, cached
from tasks.examine.protocol import Protocol
from tasks.examine.soak import soak


def _of_soak(inputs: Inputs) -> list[Any]:
    environment: Environment = inputs["environment"]
    protocol: Protocol = inputs["protocol"]
    # Only what a soak reads: a second look at the questions is no reason for another.
    read = [protocol.revision, protocol.soak, protocol.bootstrap_samples, protocol.seed]
    return [inputs["variant"].digest, environment.machine_class, *read]


@task(name="soak variant", task_run_name="soak {variant.recipe.precision}", **cached(_of_soak))
def soak_variant(
    checkpoint: Checkpoint,
    variant: Variant,
    *,
    protocol: Protocol,
    environment: Environment,  # noqa: ARG001  (part of the cache key)
) -> Evidence:
    """Generate for a long time, and tell whether anything grows."""
    return _soaked(checkpoint, variant, protocol)


@task(name="soak champion", task_run_name="soak {variant.recipe.precision}", **UNCACHED)
def soak_champion(checkpoint: Checkpoint, variant: Variant, *, protocol: Protocol) -> Evidence:
    """Do the same anew: the machine and its libraries may have changed since the release.

    Not tried again when the child is killed: that takes hours, and a leak may be what killed it.
    """
    return _soaked(checkpoint, variant, protocol)


def _soaked(checkpoint: Checkpoint, variant: Variant, protocol: Protocol) -> Evidence:
    need = loaded_bytes(variant.precision, variant.size_bytes) + BASE_BYTES
    label = f"soak {variant.precision} of {checkpoint.name}"
    with step(f"soak {variant.precision}") as say, reserve_memory(need, step=label, say=say):
        evidence = soak.soak_variant(
            checkpoint, variant, protocol=protocol, settings=Settings(), say=say
        )
        say(_in_words(evidence))
    return evidence


def _in_words(evidence: Evidence) -> str:
    kinds = {"soak.heap_growth_bytes": "heap", "soak.anon_growth_bytes": "anonymous memory"}
    found = ((kind, evidence.metrics.get(name)) for name, kind in kinds.items())
    grown = ", ".join(f"{kind} {figure_of(m)}" for kind, m in found if m and m.applies)
    return f"growth a generation in bytes: {grown}"
