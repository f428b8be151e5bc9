"""Plots of how far a variant is from the reference.

Draws what was measured elsewhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tasks.core.figures import MB, figure
from tasks.report.html import svg
from tasks.report.html.drawing import (
    Drawing,
    Material,
    NothingToDraw,
    Subject,
    doubling_axis,
    legend_above,
    line_of,
    log_axis,
    power,
)
from tasks.report.html.numbers import Kind, cell_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

# Below this a divergence is rounding: float64 sums over a vocabulary are good to about 1e-16.
FLOOR_NATS = 1e-16
_BIN_DECADES = 0.25


def size_against_divergence(material: Material) -> Drawing:
    """Size on disk against mean KL divergence, with the speed beside each point."""
    points = {
        subject: found
        for subject in material.subjects
        if (found := material.measured(subject, "fidelity.kld_mean"))
    }
    if not points:
        raise NothingToDraw("no variant's KL divergence was measured")
    sizes = {v.digest: v.size_bytes / MB for v in material.run.release.variants}
    drawn = svg.new_figure(270)
    axes = drawn.subplots()
    log_axis(axes, "y")
    middle = (min(sizes.values()) + max(sizes.values())) / 2
    words = []
    for subject, found in points.items():
        size, value = sizes[subject.digest], max(found.value or 0.0, FLOOR_NATS)
        low, high = found.ci95 or (value, value)
        axes.plot([size] * 2, [max(low, FLOOR_NATS), high], color=subject.colour)
        axes.plot(size, value, subject.marker, color=subject.colour, markersize=8)
        if subject.ships:
            axes.plot(size, value, "o", markersize=17, markeredgecolor=svg.INK,
                      markerfacecolor="none", markeredgewidth=1.5)  # fmt: skip
        _name(axes, material, subject, (size, value), to_the_right=size <= middle)
        words.append(f"{subject.label} {figure(round(size, 2))} MB, {figure(value)} nats")
    axes.margins(x=0.25, y=0.15)
    axes.set_xlabel("size on disk, MB")
    axes.set_ylabel("mean KL divergence, nats a token")
    return Drawing(drawn, "; ".join(words))


def _name(
    axes: Axes, material: Material, subject: Subject, at: tuple[float, float], *, to_the_right: bool
) -> None:
    speed = material.measured(subject, "speed.decode_tokens_per_s")
    beside = cell_of(speed, Kind.TOKEN_RATE).value if speed else "speed not measured"
    title = f"{subject.label} ships" if subject.ships else subject.label
    side, away = ("left", 13) if to_the_right else ("right", -13)
    for text, drop, weight in ((title, 4, "bold"), (beside, -11, "normal")):
        axes.annotate(text, at, (away, drop), textcoords="offset points", ha=side,
                      fontsize=11.5, fontweight=weight, annotation_clip=False)  # fmt: skip


def divergence_histogram(material: Material) -> Drawing:
    """Histogram of the tokens' KL divergence, one strip a variant, with p50 and p99."""
    import numpy as np

    parts = material.by_subject(_tokens(material))
    logs = {
        subject: np.log10(np.clip(rows["kld"].to_numpy(float), FLOOR_NATS, None))
        for subject, rows in parts.items()
    }
    low = math.floor(min(found.min() for found in logs.values()))
    high = max(low + 1, math.ceil(max(found.max() for found in logs.values())))
    bins = np.arange(low, high + _BIN_DECADES, _BIN_DECADES)
    drawn = svg.new_figure(62 + 74 * len(logs))
    strips = drawn.subplots(len(logs), sharex=True, squeeze=False)[:, 0]
    words = []
    for axes, (subject, found) in zip(strips, logs.items(), strict=True):
        words.append(_strip(axes, subject, found, bins))
    strips[-1].set_xlim(low, high)
    strips[-1].xaxis.set_major_formatter(power)
    strips[-1].set_xlabel("KL divergence of a token, nats")
    return Drawing(drawn, "; ".join(words))


def _strip(
    axes: Axes, subject: Subject, logs: NDArray[np.float64], bins: NDArray[np.float64]
) -> str:
    import numpy as np

    axes.hist(logs, bins=bins.tolist(), histtype="stepfilled", color=subject.colour, alpha=0.75)
    median, tail = (float(q) for q in np.quantile(logs, [0.5, 0.99]))
    for at, dash, name in ((median, "-", "p50"), (tail, "--", "p99")):
        axes.axvline(at, color=svg.INK, linestyle=dash, linewidth=1.2)
        axes.annotate(name, (at, 1), (3, -2), xycoords=("data", "axes fraction"),
                      textcoords="offset points", va="top", fontsize=11.5)  # fmt: skip
    axes.margins(y=0.35)
    axes.set_yticks([])
    axes.set_ylabel(subject.label, rotation=0, ha="right", va="center", fontweight="bold")
    axes.grid(visible=False, axis="y")
    return f"{subject.label}: median {figure(10**median)}, 99th percentile {figure(10**tail)} nats"


def _tokens(material: Material) -> pd.DataFrame:
    """Give the token rows of the answers; those of plain text would be another population."""
    rows = material.frame("kld", "kld")
    if "corpus" in rows:
        rows = rows[rows["corpus"] == "questions"]
    return rows[rows["kld"].notna()]


def divergence_by_position(material: Material) -> Drawing:
    """Mean KL divergence by place in the context, with its interval."""
    columns = ("bucket_start", "bucket_end", "kld_mean", "low", "high")
    rows = material.frame("positions", *columns).sort_values("bucket_start")
    rows = rows[rows["kld_mean"] > 0]
    parts = material.by_subject(rows, lambda part: len(part) > 1, "one place shows no course")
    drawn = svg.new_figure(260)
    axes = drawn.subplots()
    words = []
    for subject, part in parts.items():
        at = (part["bucket_start"] + part["bucket_end"]) / 2
        axes.plot(at, part["kld_mean"], marker=subject.marker, markersize=5,
                  color=subject.colour, linestyle=subject.dash)  # fmt: skip
        axes.fill_between(at, part["low"].clip(lower=FLOOR_NATS), part["high"],
                          color=subject.colour, alpha=0.18, linewidth=0)  # fmt: skip
        first, last = part["kld_mean"].iloc[0], part["kld_mean"].iloc[-1]
        words.append(f"{subject.label} from {figure(first)} at the start to {figure(last)} nats")
    log_axis(axes, "y")
    doubling_axis(axes, rows["bucket_end"].astype(float), lambda tick: f"{tick:,.0f}")
    axes.set_xlabel("place in the context, tokens")
    axes.set_ylabel("mean KL divergence, nats")
    legend_above(drawn, [line_of(subject, marker=subject.marker) for subject in parts])
    return Drawing(drawn, "; ".join(words))
