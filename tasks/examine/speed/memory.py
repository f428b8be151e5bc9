"""Memory of a variant, from processes that nothing else was timed in.

Two fresh processes: one whose KV cache has just the room that it needs, one with the room that
the folder asks for. Their difference is the price of a token's room.
"""

from __future__ import annotations

import pandas as pd

from tasks.core.records import Measurement
from tasks.examine.metrics import Metrics, not_applicable
from tasks.examine.speed.rows import FRESH, Timed

_NAMES = (
    "memory.load_peak_rss_bytes",
    "memory.peak_rss_bytes",
    "memory.anon_bytes",
    "memory.file_bytes",
    "memory.kv_bytes_per_token",
    "memory.peak_rss_full_context_bytes",
)


def memory_metrics(timed: Timed, lane: str) -> Metrics:
    """Give peaks, the parts of resident memory, and the price of a token in the KV cache."""
    launches = timed.launches
    fresh = launches[(launches["lane"] == lane) & (launches["start"] == FRESH)]
    measured = fresh[fresh["hwm_b"].notna()].sort_values("launch")
    if measured.empty:
        return dict.fromkeys(_NAMES, Measurement(value=None, n=0, method="no run for memory"))
    narrow, wide = measured.iloc[0], measured.iloc[-1]
    return {
        "memory.load_peak_rss_bytes": _bytes(
            fresh["load_peak_rss_bytes"].max(),
            "highest resident memory of a fresh process after loading, largest of the launches",
            n=len(fresh),
        ),
        "memory.peak_rss_bytes": _bytes(narrow["hwm_b"], _peak(narrow)),
        "memory.anon_bytes": _part(narrow["anon_b"], f"{_of(narrow)}; anonymous memory after it"),
        "memory.file_bytes": _part(narrow["file_b"], f"{_of(narrow)}; mapped files after it"),
        "memory.peak_rss_full_context_bytes": _bytes(wide["hwm_b"], _peak(wide)),
        "memory.kv_bytes_per_token": _per_token(narrow, wide),
    }


def _per_token(narrow: pd.Series[float], wide: pd.Series[float]) -> Measurement:
    """Divide the growth of anonymous memory by the growth of the cache's room.

    The engine fills the whole cache with zeros when it makes it (measured on 0.18), so that all of
    it is resident, used or not. What it copies of it while decoding counts too: an FP16 cache is
    half as large and costs more, because it is widened on processors without FP16.
    """
    room = int(wide["max_length"] - narrow["max_length"])
    if room < narrow["max_length"]:
        return not_applicable("the folder asks for no longer KV cache than was used")
    if pd.isna(narrow["anon_b"]):
        return _not_on_this_platform()
    return _bytes(
        (wide["anon_b"] - narrow["anon_b"]) / room,
        f"anonymous memory of two fresh processes with room for {narrow['max_length']:.0f} and "
        f"{wide['max_length']:.0f} tokens, difference over difference",
    )


def _part(found: float, method: str) -> Measurement:
    return _not_on_this_platform() if pd.isna(found) else _bytes(found, method)


def _not_on_this_platform() -> Measurement:
    return not_applicable("only Linux tells a process's anonymous memory from its files")


def _bytes(value: float, method: str, *, n: int = 1) -> Measurement:
    return Measurement(value=float(value), n=n, unit="B", method=method)


def _of(row: pd.Series[float]) -> str:
    return (
        f"{row['n_in']:.0f} prompt and {row['n_out']:.0f} new tokens, KV cache for "
        f"{row['max_length']:.0f} tokens"
    )


def _peak(row: pd.Series[float]) -> str:
    since = "since loading" if row["peak_was_reset"] else "loading included"
    return f"{_of(row)}; highest resident memory of a fresh process, {since}"
