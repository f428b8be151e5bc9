"""What the table of variants must not be read without: what failed, and what its figures mean.

Words only; every number was measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tasks.core.figures import figure_of
from tasks.core.records import Measurement, Precision, Release
from tasks.report.markup import escaped

# An A/A comparison whose interval leaves 1 by more than this says that the clock was not fair.
FAIR_CLOCK = 0.05


def failures_in_words(failures: Mapping[str, str]) -> list[str]:
    """Say in one line each what failed: precisions, and what was done once for all variants."""
    return [f"{_failed(subject)}: {why}" for subject, why in sorted(failures.items())]


def remarks(release: Release) -> Iterable[str]:
    """Say what the table must not be read without."""
    reference = _first(release, "answers.right_reference")
    if reference is not None and reference.value is not None:
        yield f"The FP32 reference answers {figure_of(reference)} of the questions right."
    if any(variant.precision is Precision.FP16 for variant in release.variants):
        yield (
            "FP16 weights are widened to FP32 while loading on x86 processors: FP16 saves disk "
            "there, not memory or time."
        )
    yield from _memory_remark(_first(release, "memory.peak_rss_bytes"))
    yield from _clock_remark(_first(release, "speed.aa_ratio"))
    if _first(release, "foundry.token_mismatches") is not None:
        yield (
            "Foundry Local's chat template is held against the checkpoint's by numbers of tokens, "
            "not by text: its runtime shows no rendered prompt."
        )


def _first(release: Release, metric: str) -> Measurement | None:
    """Find a metric that is the same for all variants."""
    return next((found[metric] for found in release.metrics.values() if metric in found), None)


def _memory_remark(peak: Measurement | None) -> Iterable[str]:
    if peak is None or peak.value is None:
        return
    workload = peak.method.partition(";")[0]
    yield (
        f"Peak RAM is ONNX Runtime GenAI's ({escaped(workload)}); a chat session of Foundry Local "
        "reserves its cache for the whole context, and takes more."
    )


def _clock_remark(aa_ratio: Measurement | None) -> Iterable[str]:
    if aa_ratio is None or aa_ratio.value is None:
        return
    low, high = aa_ratio.ci95 or (aa_ratio.value, aa_ratio.value)
    if low > 1 + FAIR_CLOCK or high < 1 - FAIR_CLOCK:
        yield (
            f"SPEED IS INVALID in this run: the same weights timed twice differ by a factor of "
            f"{figure_of(aa_ratio)}. Run the same command again on a quiet machine: the speed is "
            "then measured again."
        )
    else:
        yield (
            f"The same weights timed twice differ by a factor of {figure_of(aa_ratio)}; smaller "
            "differences in speed are noise."
        )


def _failed(subject: str) -> str:
    if subject == "speed":
        return "speed could not be measured"
    return f"{subject.upper() if subject in set(Precision) else subject} failed"
