"""What loads, asks and unloads a model over and over, and reads its own memory after each time."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import psutil
from scipy.stats import theilslopes

from tasks.core.errors import InputError, ToolFailed
from tasks.core.progress import report_progress
from tasks.core.records import Measurement
from tasks.foundry.reload import LEAST_CYCLES, WARM_UPS, Reloaded, ReloadRequest
from tasks.foundry.runtime import FoundryRuntime, foundry_runtime

FRAME = "foundry_cycles.parquet"
ANSWER_TOKENS = 8
_LEVEL = 0.95
_KIND = {
    "linux": "resident anonymous memory",
    "win32": "private bytes",
    "darwin": "USS",
}


class Cycle(NamedTuple):
    """One load and unload.

    Attributes:
        i: its number, from 0.
        counts: it is no warm-up.
        t_s: seconds to load, ask and unload.
        rss_b: resident set size afterwards, mapped files included.
        anon_b: afterwards; Linux: resident anonymous memory, Windows: private bytes, macOS: USS.
        loaded_rss_b: resident set size before the unload.
    """

    i: int
    counts: bool
    t_s: float
    rss_b: int
    anon_b: int
    loaded_rss_b: int


def cycle(request: ReloadRequest) -> Reloaded:
    """Do the warm-ups and the cycles, and write the rows; see `ReloadRequest`."""
    cycles: list[Cycle] = []
    try:
        with foundry_runtime(request.index, request.app_data) as runtime:
            for number in range(WARM_UPS + request.cycles):
                report_progress(f"load and unload {number + 1} of {WARM_UPS + request.cycles}")
                cycles.append(_one_cycle(runtime, request, number))
    except (InputError, ToolFailed) as problem:
        reason = f"load {len(cycles) + 1}: {problem}"
        return Reloaded(growth=Measurement(value=None, n=0, method=reason), notes=[reason])
    finally:
        pd.DataFrame(cycles, columns=Cycle._fields).to_parquet(request.frames / FRAME)
    return Reloaded(growth=growth(cycles[WARM_UPS:]), notes=[])


def growth(cycles: Sequence[Cycle]) -> Measurement:
    """Fit the growth of what is held after each unload, in bytes a cycle.

    Theil-Sen slope with its interval (Sen 1968), which a single disturbed reading does not move.
    Of anonymous and of all resident memory the one that grows faster: a model that stays mapped is
    in the second only, and there the system may take pages away behind our back.

    Args:
        cycles: oldest first, warm-up left out, at least `LEAST_CYCLES`.
    """
    if len(cycles) < LEAST_CYCLES:
        return Measurement(value=None, n=len(cycles), unit="B", method="too few cycles for a slope")
    fits = {
        _KIND.get(sys.platform, "USS"): theilslopes([each.anon_b for each in cycles], alpha=_LEVEL),
        "resident memory": theilslopes([each.rss_b for each in cycles], alpha=_LEVEL),
    }
    kind, fit = max(fits.items(), key=lambda each: float(each[1].slope))
    return Measurement(
        value=float(fit.slope),
        ci95=(float(fit.low_slope), float(fit.high_slope)),
        n=len(cycles),
        unit="B",
        method=f"{kind} after each unload (glibc: and malloc_trim); Theil-Sen slope a cycle",
    )


def _one_cycle(runtime: FoundryRuntime, request: ReloadRequest, number: int) -> Cycle:
    started = time.monotonic()
    with runtime.loaded(request.model_id) as model:
        model.ask(request.messages, max_tokens=ANSWER_TOKENS)
        loaded_rss_b, _ = held_memory()
    seconds = time.monotonic() - started
    if request.model_id in runtime.loaded_ids():
        raise ToolFailed(f"{request.model_id} is still loaded after it was unloaded")
    return_free_memory()
    return Cycle(number, number >= WARM_UPS, seconds, *held_memory(), loaded_rss_b)


def held_memory() -> tuple[int, int]:
    """Read what this process holds: see `rss_b` and `anon_b` of `Cycle`."""
    process = psutil.Process()
    memory = process.memory_info()
    if sys.platform == "linux":
        return memory.rss, memory.rss - memory.shared
    if sys.platform == "win32":
        return memory.rss, memory.private
    return memory.rss, process.memory_full_info().uss


def return_free_memory() -> None:
    """Have glibc give back what is freed; else 6 MiB come and go at random (measured, 1.5 MB)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
