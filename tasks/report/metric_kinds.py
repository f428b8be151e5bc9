"""Which direction of a metric is better, and how much of a change is none in practice.

A table, the most particular first; the first match counts. Knows names of metrics, no values.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from tasks.core.fairness import SAME_WITHIN

Better = Literal["lower", "higher"]
Said = Literal["ratio", "points", "difference"]


@dataclass(frozen=True)
class Kind:
    """Metrics of one kind.

    Attributes:
        metrics: names or globs.
        better: None for what says how something was measured, not how good it is.
        relative: a change by this share of the value before is none in practice.
        absolute: likewise, in the metric's own unit; the larger of both counts.
        noise: by what share a single value without an interval may be off; 0 for an exact count,
            None where nobody knows, and then nothing is said of two of them.
        said: how a change is written: as a factor, in percentage points, in the metric's unit.
    """

    metrics: tuple[str, ...]
    better: Better | None
    relative: float = 0.0
    absolute: float = 0.0
    said: Said = "difference"
    noise: float | None = 0.0

    def margin(self, before: float) -> float:
        """Give the change that is none in practice, in the metric's own unit."""
        return max(self.absolute, self.relative * abs(before))

    def is_a_ratio(self, before: float) -> bool:
        """Tell whether a change is a factor: not where the value is next to nothing already."""
        return self.said == "ratio" and before > 0 and self.relative * before >= self.absolute


KINDS = (
    # How it was measured, what it was measured against, or an extreme that has no interval.
    Kind(
        (
            "template.conversations",
            "edge.cases",
            "soak.generations",
            "tune.*",
            "*_reference",
            "answers.mcnemar_p",
            "answers.worst_category_bound",
            "speed.aa_*",
            "speed.*_ratio",
            "speed.*_to_champion",
            "speed.cpu_cores",
            "speed.contended",
            "fidelity.kld_max",
            "text.kld_max",
            "fidelity.dp_mean",
            "text.dp_mean",
        ),
        None,
    ),
    # Exact counts: one more is one too many.
    Kind(
        (
            "*_mismatches",
            "*failures",
            "template.eos_missing",
            "build.rotary_rows_missing",
            "decode.failed",
            "answers.empty",
            "answers.wrong_script",
            "baits.empty_turn_lost",
            "guided.invalid",
            "soak.thread_growth",
            "soak.descriptor_growth",
        ),
        "lower",
    ),
    Kind(("build.rotary_difference",), "lower", absolute=0.001),
    # Nats: a tenth more or less is seen in no answer, and below 1e-6 nothing is.
    Kind(("lengths.kld_growth",), "lower", relative=0.10, said="ratio"),
    Kind(("decode.kld_mean",), "lower", relative=0.10, said="ratio", absolute=1e-5),
    Kind(("*.kld_*",), "lower", relative=0.10, said="ratio", absolute=1e-6),
    Kind(("*.dp_rms",), "lower", relative=0.10, said="ratio", absolute=0.001),
    Kind(("*.ppl_ratio",), "lower", absolute=0.01),
    Kind(("*.top1_*",), "higher", absolute=0.005, said="points"),
    # Shares of questions: a point. Of the 25 baits, less than one of them.
    Kind(("baits.stopped_delta",), "higher", absolute=0.03, said="points"),
    # Refusing more is as bad as refusing less: the gates hold it on both sides.
    Kind(("baits.refusals_delta",), None, absolute=0.03, said="points"),
    Kind(("baits.*",), "lower", absolute=0.03, said="points"),
    Kind(
        ("answers.flip_rate", "answers.harm", "answers.loops*", "answers.*refusals*"),
        "lower",
        absolute=0.01,
        said="points",
    ),
    Kind(("lengths.latency_misfit",), "lower", absolute=0.05),
    Kind(
        ("answers.*", "guided.*", "lengths.*", "reference.*"),
        "higher",
        absolute=0.01,
        said="points",
    ),
    # Bytes and seconds.
    Kind(("size.*",), "lower", relative=0.01, said="ratio"),
    Kind(("soak.decode_*",), "higher", absolute=0.05),
    Kind(("soak.heap_growth_bytes",), "lower", absolute=256.0),
    Kind(("soak.anon_growth_bytes",), "lower", absolute=1024.0),
    Kind(("foundry.reload_growth_bytes",), "lower", absolute=65_536.0),
    # Measured once a run. Peaks of one variant came out within 0.6 % on a machine that was busy
    # for a third of the time (measured); 1 % leaves room. So a change is proven beyond 5 % and
    # 1.4 % more: both values may be off. Of the parts nobody knows the noise: a cache's bytes a
    # token may come out at half to four times what they must be (tests/real/test_examine_speed.py).
    Kind(("memory.*peak_rss*",), "lower", relative=0.05, said="ratio", noise=0.01),
    Kind(("memory.*",), "lower", relative=0.05, said="ratio", noise=None),
    Kind(("speed.*_per_s",), "higher", relative=SAME_WITHIN, said="ratio"),
    Kind(("speed.*_s", "speed.*_token", "energy.*"), "lower", relative=SAME_WITHIN, said="ratio"),
)


def kind_of(metric: str) -> Kind | None:
    """Give the kind of a metric; None for a name that this table does not know."""
    return next(
        (kind for kind in KINDS if any(fnmatchcase(metric, glob) for glob in kind.metrics)), None
    )
