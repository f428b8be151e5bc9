"""When two speeds are called different, and whether a control says that the clock lied.

The one place that says how much is noise; how a ratio is measured is the examination's matter.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.core.records import Measurement

# Less than this is "the same": the interval of one launch's rounds alone was [0.92, 0.98] for the
# same weights against themselves (measured).
SAME_WITHIN = 0.05

_CONTROL = "speed.aa_"
_RATIO = "ratio"


def is_different(ratio: Measurement) -> bool:
    """Tell whether the whole interval of a ratio lies beyond 1 +- 0.05."""
    if ratio.ci95 is None:
        return False
    low, high = ratio.ci95
    return low > 1 + SAME_WITHIN or high < 1 - SAME_WITHIN


def control_ratios(metrics: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """Give the comparisons of the same weights with themselves, by name."""
    return {
        name: found
        for name, found in metrics.items()
        if name.startswith(_CONTROL) and name.endswith(_RATIO)
    }


def is_fair(metrics: Mapping[str, Measurement]) -> bool | None:
    """Tell whether no comparison of the same weights with themselves came out different.

    None where it is not known: nothing was compared, or a comparison has no interval. It is no
    `True`: whoever trusts a clock asks for that.
    """
    ratios = control_ratios(metrics).values()
    if any(map(is_different, ratios)):
        return False
    return None if not ratios or any(ratio.ci95 is None for ratio in ratios) else True
