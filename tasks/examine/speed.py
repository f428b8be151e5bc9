"""Time all variants against each other, interleaved, with one of them twice as a control.

The parent side; the schedule is in `speed_child.py`, the clock in `timing_worker.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.core.records import Digest, Evidence, Precision, Record, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.examination import FramesRequest, Say, examine_in_child, intact_folder
from tasks.examine.protocol import Protocol, TimingPlan

_SLOWEST_BYTES_PER_S = 1e8  # of weights read a token; memory reads 1e10
_START_S = 60.0
_FAIR_WITHIN = 0.05


class TimedVariant(Record):
    """One variant to time."""

    digest: Digest
    precision: Precision
    folder: Path
    size_bytes: int


class SpeedRequest(FramesRequest):
    """What the child needs to time variants."""

    variants: list[TimedVariant]
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
        wholly beyond 1 +- 0.05 says that the machine was busy.
        """
        return all(part.is_settled() and _is_fair(part) for part in self.evidence)


def _is_fair(part: Evidence) -> bool:
    """Tell whether an interval of the A/A ratio, if there is one, reaches into 1 +- 0.05."""
    control = part.metrics.get("speed.aa_ratio")
    if control is None or control.ci95 is None:
        return True  # what has no value is unsettled anyway
    low, high = control.ci95
    return low <= 1 + _FAIR_WITHIN and high >= 1 - _FAIR_WITHIN


def measure_speed(
    variants: Sequence[Variant],
    *,
    protocol: Protocol,
    settings: Settings,
    say: Say = lambda _line: None,
) -> SpeedEvidence:
    """Measure time to first token, rates, CPU seconds and peak memory.

    Timing one variant after the other invents differences: the same weights twice gave ratios of
    1.36, 0.76 and 1.14 (measured), so every round runs every variant, in random order. The frames
    hold `samples.parquet` (a row a run) and `launches.parquet` (a row a worker).

    Raises:
        VariantUnusable: a variant does not load or decode, or is not what was built.
        ChildKilled: a worker was killed, most likely for memory.
    """
    if not variants:
        return SpeedEvidence(evidence=[])
    store = Store(settings.store)
    timed = [
        TimedVariant(
            digest=variant.digest,
            precision=variant.precision,
            folder=intact_folder(variant, store),
            size_bytes=variant.size_bytes,
        )
        for variant in variants
    ]
    speed, frames, cost = examine_in_child(
        "tasks.examine.speed_child:examine",
        lambda frames: SpeedRequest(frames=frames, variants=timed, protocol=protocol),
        SpeedEvidence,
        log_name=f"speed-{variants[0].checkpoint_digest[:12]}.log",
        deadline_s=_deadline_s(timed, protocol.timing),
        settings=settings,
        say=say,
    )
    return SpeedEvidence(
        evidence=[
            part.model_copy(update={"frames": frames, "cost": cost}) for part in speed.evidence
        ]
    )


def _deadline_s(variants: Sequence[TimedVariant], plan: TimingPlan) -> float:
    largest = max(variant.size_bytes for variant in variants)
    run_s = largest * (plan.new_tokens + plan.prompt_tokens / 8) / _SLOWEST_BYTES_PER_S
    runs = plan.warmups + plan.least_rounds
    lanes = len(variants) + 1
    return plan.budget_s + lanes * plan.launches * (_START_S + runs * run_s)
