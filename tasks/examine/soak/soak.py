"""Generate for a long time with one variant, and tell whether anything grows.

The parent side; everything heavy is in `soak_child.py`.
"""

from __future__ import annotations

from pathlib import Path

from tasks.core.records import Checkpoint, Digest, Evidence, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.examine.examination import FramesRequest, Say, examine_in_child, intact_folder
from tasks.examine.protocol import Protocol, SoakPlan

# Slowest rates we let pass, for parameters * tokens, as in `examination.py`, and a generator's
# making. A deadline ends hanging children; it is no forecast.
_PREFILL_WEIGHTS_PER_S = 7e9
_DECODE_WEIGHTS_PER_S = 1e9
_GENERATION_S = 0.5
_START_S = 300.0

# Cycles of prompt lengths, without which there is no interval: with fewer, the steps of 4 to
# 132 KiB in which anonymous memory grows decide the slope.
LEAST_BLOCKS = 20


class SoakChildRequest(FramesRequest):
    """What the child needs to soak a variant."""

    digest: Digest
    folder: Path
    protocol: Protocol


def soak_variant(
    checkpoint: Checkpoint,
    variant: Variant,
    *,
    protocol: Protocol,
    settings: Settings,
    say: Say = lambda _line: None,
) -> Evidence:
    """Measure growth of memory, threads and descriptors, and whether decoding slows down.

    The frames hold `memory.parquet`, a row a generation, warm-up included; there is none where
    the variant failed, and then nothing is measured.

    Args:
        checkpoint: for the deadline.
        variant: what is soaked.
        protocol: for its plan.
        settings: where store and logs are.
        say: told how far it is.

    Raises:
        VariantUnusable: the variant is not what was built.
        DoesNotFit: memory ran out.
        ChildKilled: the child was killed, which a leak may be the reason for.
    """
    folder = intact_folder(variant, store_of(settings))
    evidence, frames, cost = examine_in_child(
        "tasks.examine.soak.soak_child:examine",
        lambda frames: SoakChildRequest(
            frames=frames, digest=variant.digest, folder=folder, protocol=protocol
        ),
        Evidence,
        log_name=f"soak-{variant.precision}-{variant.digest[:12]}.log",
        deadline_s=deadline_s(checkpoint.parameters, protocol.soak),
        settings=settings,
        say=say,
    )
    return evidence.model_copy(update={"frames": frames, "cost": cost})


def deadline_s(parameters: int, plan: SoakPlan) -> float:
    """Give the seconds after which a soak must be hanging.

    The time that the plan allows, and what its least takes beyond that.

    Args:
        parameters: weights of the model.
        plan: for lengths and numbers.
    """
    cycle_s = sum(
        _GENERATION_S
        + parameters * length / _PREFILL_WEIGHTS_PER_S
        + parameters * plan.new_tokens / _DECODE_WEIGHTS_PER_S
        for length in plan.lengths
    )
    cycles = plan.warmup / len(plan.lengths) + LEAST_BLOCKS
    return _START_S + plan.budget_s + cycles * cycle_s
