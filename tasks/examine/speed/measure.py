"""Time all variants against each other, interleaved, with one of them twice as a control.

The parent side; the schedule is in `schedule.py`, the clock in `worker.py`, the numbers are made
in `metrics.py` and beside it. Stays light, because the flow imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.core.fairness import is_fair
from tasks.core.records import Digest, Evidence, Precision, Record, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.core.store import Store
from tasks.examine.examination import FramesRequest, Say, examine_in_child, intact_folder
from tasks.examine.protocol import CHAT, Protocol, TimingPlan

_SLOWEST_BYTES_PER_S = 1e8  # of weights read a token; memory reads 1e10
_START_S = 60.0


class TimedVariant(Record):
    """One variant to time."""

    digest: Digest
    precision: Precision
    folder: Path
    size_bytes: int


class SpeedRequest(FramesRequest):
    """What the child needs to time variants.

    Attributes:
        champion: what the variants are compared with besides each other, or None.
    """

    variants: list[TimedVariant]
    champion: TimedVariant | None = None
    protocol: Protocol


class SpeedEvidence(Record):
    """One evidence a variant; all from the same rounds, so they share their frames."""

    evidence: list[Evidence]

    def objects(self) -> list[str]:
        """The raw rows."""
        return sorted({name for part in self.evidence for name in part.objects()})

    def is_settled(self) -> bool:
        """Only when all was measured on a fair clock; another hour may give a better one.

        The same weights against themselves are as fast as themselves: a ratio whose interval lies
        wholly beyond 1 +- 0.05 says that the machine was busy. Where nobody knows, it is not kept.
        """
        return all(part.is_settled() and is_fair(part.metrics) is True for part in self.evidence)


def measure_speed(
    variants: Sequence[Variant],
    *,
    protocol: Protocol,
    settings: Settings,
    champion: Variant | None = None,
    say: Say = lambda _line: None,
) -> SpeedEvidence:
    """Measure times and rates, CPU seconds, memory, energy, and how time grows with length.

    Timing one variant after the other invents differences: the same weights twice gave ratios of
    1.36, 0.76 and 1.14 (measured), so every round runs every variant, in random order. The frames
    hold `samples.parquet` (a row a run), `launches.parquet` (a row a worker) and
    `latency.parquet` (a row a length).

    Args:
        variants: the first of them is what the others' ratios refer to, and is timed twice.
        protocol: how much is measured.
        settings: where store and logs are.
        champion: a variant that is shipped now, timed beside them; files that are not in the
            store any more are no reason to fail.
        say: told what is being timed.

    Raises:
        VariantUnusable: a variant does not load or decode, or is not what was built.
        ChildKilled: a worker was killed, most likely for memory.
        DoesNotFit: a worker ran out of memory.
    """
    if not variants:
        return SpeedEvidence(evidence=[])
    store = store_of(settings)
    timed = [timed_variant(variant, store) for variant in variants]
    holder = None
    if champion is not None and store.is_intact(champion.digest, deep=True):
        holder = timed_variant(champion, store)
    speed, frames, cost = examine_in_child(
        "tasks.examine.speed.schedule:examine",
        lambda frames: SpeedRequest(
            frames=frames, variants=timed, champion=holder, protocol=protocol
        ),
        SpeedEvidence,
        log_name=f"speed-{variants[0].checkpoint_digest[:12]}.log",
        deadline_s=_deadline_s([*timed, *([holder] if holder else [])], protocol.timing),
        settings=settings,
        say=say,
    )
    return SpeedEvidence(
        evidence=[
            part.model_copy(update={"frames": frames, "cost": cost}) for part in speed.evidence
        ]
    )


def timed_variant(variant: Variant, store: Store) -> TimedVariant:
    """Give the record of a variant whose files were just hashed.

    Raises:
        VariantUnusable: they are gone, or not what was built.
    """
    return TimedVariant(
        digest=variant.digest,
        precision=variant.precision,
        folder=intact_folder(variant, store),
        size_bytes=variant.size_bytes,
    )


def _deadline_s(variants: Sequence[TimedVariant], plan: TimingPlan) -> float:
    """Give the seconds after which the child must be hanging: the least work at a crawl."""
    largest = max(variant.size_bytes for variant in variants)
    run_s = largest * (CHAT.new_tokens + CHAT.prompt_tokens / 8) / _SLOWEST_BYTES_PER_S
    runs = plan.warmups + plan.least_rounds + 4  # the shortest lengths, memory
    lanes = len(variants) + 1
    starts_s = 2 * lanes * plan.launches * _START_S
    return 2 * plan.budget_s + plan.idle_s + starts_s + lanes * plan.launches * runs * run_s
