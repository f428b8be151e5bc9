"""Running one task for several subjects side by side, and living with those that fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prefect.futures import PrefectFuture

from flows.remote_steps import is_announced, lost_worker
from tasks.core.errors import CheckpointRefused, EnvironmentUnfit, IngotError, TransientFault, named
from tasks.core.progress import StepState, announce

T = TypeVar("T")


@dataclass(frozen=True)
class Settled(Generic[T]):
    """Results by subject, and for the other subjects the reason."""

    results: dict[str, T] = field(default_factory=dict)
    failures: dict[str, IngotError] = field(default_factory=dict)


def result_of(future: PrefectFuture[T], step: str) -> T:
    """Wait for a task and give its result; says so when it was cached.

    Raises:
        IngotError: the task's own, or what its error is called in the tree.
    """
    future.wait()
    if not is_announced(future) and future.state.name == "Cached":
        announce(step, StepState.CACHED)
    try:
        result: T = future.result(raise_on_failure=True)
    except IngotError:
        raise
    except Exception as problem:
        # Whatever it is, it came out of one task: the others have results, and go on.
        raise lost_worker(problem) or named(problem) from problem
    return result


def settle(futures: Mapping[str, PrefectFuture[T]], step: str) -> Settled[T]:
    """Wait for all; an error fails its own subject only.

    Raises:
        CheckpointRefused: the checkpoint is no longer what was admitted.

    Args:
        futures: by subject, such as the precision.
        step: the verb of the step's name, as in `build int4`.
    """
    settled: Settled[T] = Settled()
    for subject, future in futures.items():
        try:
            settled.results[subject] = result_of(future, f"{step} {subject}")
        except CheckpointRefused:
            raise  # it changed under the run: no subject has anything sound to stand on
        except IngotError as problem:
            settled.failures[subject] = problem
    return settled


def first_failures(settled: Iterable[Settled[T]]) -> dict[str, IngotError]:
    """Why subjects failed; the first failure of each counts."""
    found: dict[str, IngotError] = {}
    for group in settled:
        for subject, problem in group.failures.items():
            found.setdefault(subject, problem)
    return found


def is_environments(problem: IngotError) -> bool:
    """Tell whether this machine, not the model, is the reason."""
    return isinstance(problem, EnvironmentUnfit | TransientFault)
