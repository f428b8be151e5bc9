"""What the table of variants must not be read without: what failed, and what its figures mean.

Words only; every number was measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tasks.core.fairness import control_ratios, is_different, is_fair
from tasks.core.figures import figure_of
from tasks.core.records import Measurement, Precision, Release


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
            "there, not memory or time. It is for other devices."
        )
    yield from _memory_remark(_first(release, "memory.peak_rss_bytes"))
    yield from _clock_remark(release)
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
        f"Peak RAM is ONNX Runtime GenAI's ({workload}); a chat session of Foundry Local "
        "reserves its cache for the whole context, and takes more."
    )


def clock_doubt(release: Release) -> str:
    """Say why the speeds can't be believed; empty where they can, or there are none."""
    if not any(_is_a_speed(name, found) for name, found in _measured(release)):
        return ""
    return {
        True: "",
        False: "NOT RELIABLE, the clock was disturbed",
        None: "nobody knows whether the clock was fair",
    }[is_fair(_same_twice(release))]


def _is_a_speed(name: str, found: Measurement) -> bool:
    return name.startswith("speed.") and name != "speed.contended" and found.value is not None


def _measured(release: Release) -> Iterable[tuple[str, Measurement]]:
    return (each for metrics in release.metrics.values() for each in metrics.items())


def _same_twice(release: Release) -> dict[str, Measurement]:
    """Give the times of the same weights over themselves, by metric: of all, and of each part."""
    return control_ratios(dict(_measured(release)))


def _clock_remark(release: Release) -> Iterable[str]:
    ratios = _same_twice(release)
    if unfair := sorted(name for name, ratio in ratios.items() if is_different(ratio)):
        yield (
            "SPEED IS INVALID in this run: the same weights timed twice differ by a factor of "
            f"{figure_of(ratios[unfair[0]])} ({unfair[0]}). Run the same command again on a quiet "
            "machine: the speed is then measured again. Ratios to the champion have been widened "
            "by that difference."
        )
    elif doubt := clock_doubt(release):
        yield f"SPEED IS UNCERTAIN in this run: {doubt}, for the same weights were not timed twice."
    elif "speed.aa_ratio" in ratios:
        yield (
            f"The same weights timed twice differ by a factor of "
            f"{figure_of(ratios['speed.aa_ratio'])}; smaller differences in speed are noise."
        )


def _failed(subject: str) -> str:
    if subject == "speed":
        return "speed could not be measured"
    return f"{subject.upper() if subject in set(Precision) else subject} failed"
