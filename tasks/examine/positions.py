"""Does a variant lose more, deep in a long input, than it loses on the same words in a short one?

A wrong RoPE base or a broken cache is right for the first words and lost after a thousand, where
short prompts never look. Summarises rows; what was compared is `fidelity.py`'s matter.
"""

from __future__ import annotations

import pandas as pd

from tasks.core.records import Measurement
from tasks.core.statistics import cluster_ratio
from tasks.examine.fidelity import LONG, TEXT
from tasks.examine.metrics import Metrics, not_applicable, with_interval
from tasks.examine.protocol import Protocol

METRIC_NAMES = ("lengths.kld_growth", "lengths.kld_deep")

# Added to both sides of the ratio. The control takes two models for equal below it, and at the
# 1e-10 that an FP16 graph may have a ratio is noise.
FLOOR_NATS = 1e-6
LEAST_DOCUMENTS = 5  # of fewer a bootstrap has too few outcomes
_FIRST_BUCKET = 64
_KEY = ["question_id", "offset"]


def position_metrics(
    rows: pd.DataFrame, protocol: Protocol
) -> tuple[Metrics, pd.DataFrame, list[str]]:
    """Compare tokens in long windows with the same tokens in short ones.

    The same tokens, because the buckets of position hold different words: on the demo checkpoint
    the mean divergence of sound variants differs by 0.5 to 1.3 between buckets, and by 0.8 to 1.1
    between a long and a short window of the same words. Measured with 32 documents: FP16 0.92
    [0.85, 1.01], INT8 0.97 [0.72, 1.33], INT4 1.06 [0.78, 1.46]; INT8 with a RoPE base of 9000
    in place of 10000: 3.0 [2.1, 4.5]. (2026-11, ONNX Runtime GenAI 0.18.)

    Args:
        rows: of the corpora `text` and `long`; others are passed over.
        protocol: deep is what lies beyond a short window.

    Returns:
        The metrics; a row a bucket of positions, with columns bucket_start, bucket_end (the first
        position beyond it), n, documents, kld_mean, low, high (absent below two documents) and
        kld_short (the mean of the same tokens in short windows); and what to say of it.
    """
    long = rows[rows["corpus"] == LONG.name]
    if long.empty:
        reason = (
            f"the context has no room for a window longer than {protocol.text.window_tokens} tokens"
        )
        return dict.fromkeys(METRIC_NAMES, not_applicable(reason)), _buckets(long, protocol), []
    paired = _with_short(long, rows[rows["corpus"] == TEXT.name])
    deep = paired[paired["position"] >= protocol.text.window_tokens].dropna(subset=["kld_short"])
    if (documents := deep["question_id"].nunique()) < LEAST_DOCUMENTS:
        reason = f"the context has room for {documents} documents beyond the first window only"
        return dict.fromkeys(METRIC_NAMES, not_applicable(reason)), _buckets(paired, protocol), []
    buckets = _buckets(paired, protocol)
    growth = _growth(deep, protocol)
    metrics = {"lengths.kld_growth": growth, "lengths.kld_deep": _deep_kld(deep, protocol)}
    return metrics, buckets, _notes(growth, buckets, protocol)


def _with_short(long: pd.DataFrame, text: pd.DataFrame) -> pd.DataFrame:
    """Put beside each token what it has in its short window, where it is scored there."""
    short = text[[*_KEY, "kld"]].rename(columns={"kld": "kld_short"})
    return long.merge(short, on=_KEY, how="left", validate="many_to_one")


def _growth(deep: pd.DataFrame, protocol: Protocol) -> Measurement:
    sums = deep.groupby("question_id", sort=False)[["kld", "kld_short"]].sum()
    floor = FLOOR_NATS * deep.groupby("question_id", sort=False).size()
    far, near = sums["kld"] + floor, sums["kld_short"] + floor
    return with_interval(
        float(far.sum() / near.sum()) if len(sums) else 0.0,
        cluster_ratio(
            far.to_numpy(), near.to_numpy(), samples=protocol.bootstrap_samples, seed=protocol.seed
        ),
        n=len(deep),
        method=f"KL divergence from position {protocol.text.window_tokens} on over that of the "
        f"same tokens in windows of {protocol.text.window_tokens}, {FLOOR_NATS:g} nat added to "
        f"both; {LONG.clusters(deep, protocol)}",
        clusters=LONG.cluster,
    )


def _deep_kld(deep: pd.DataFrame, protocol: Protocol) -> Measurement:
    return with_interval(
        float(deep["kld"].mean()),
        LONG.drawn(deep, "kld", protocol),
        n=len(deep),
        unit="nat",
        method=f"mean over {LONG.tokens} from position {protocol.text.window_tokens} on; "
        f"{LONG.clusters(deep, protocol)}",
        clusters=LONG.cluster,
    )


def _buckets(paired: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Give a row for each range of positions: the first 64, then each as long as all before it."""
    last = int(paired["position"].max()) if len(paired) else -1
    rows = []
    start, end = 0, _FIRST_BUCKET
    while start <= last:
        part = paired[(paired["position"] >= start) & (paired["position"] < end)]
        low, high = LONG.drawn(part, "kld", protocol) or (None, None)
        rows.append(
            {
                "bucket_start": start,
                "bucket_end": end,
                "n": len(part),
                "documents": part["question_id"].nunique(),
                "kld_mean": part["kld"].mean(),
                "low": low,
                "high": high,
                "kld_short": part["kld_short"].mean(),
            }
        )
        start, end = end, 2 * end
    columns = ["bucket_start", "bucket_end", "n", "documents", "kld_mean", "low", "high"]
    table = pd.DataFrame(rows, columns=[*columns, "kld_short"])
    measured = ["kld_mean", "low", "high", "kld_short"]
    return table.astype({**dict.fromkeys(columns[:4], int), **dict.fromkeys(measured, float)})


def _notes(growth: Measurement, buckets: pd.DataFrame, protocol: Protocol) -> list[str]:
    if growth.value is None or growth.ci95 is None or growth.ci95[0] <= 1:
        return []
    (low, high), short = growth.ci95, protocol.text.window_tokens
    deep = buckets[buckets["bucket_end"] > short].assign(
        times=lambda rows: rows["kld_mean"] / rows["kld_short"]
    )
    worst = deep.nlargest(1, "times").iloc[0]
    note = (
        f"from position {short} on tokens lose {growth.value:.2g} times [{low:.2g}, {high:.2g}] "
        "what the same tokens lose in a short window; worst between positions "
        f"{worst['bucket_start']:.0f} and {worst['bucket_end'] - 1:.0f}: "
        f"{worst['kld_mean']:.2g} nats against {worst['kld_short']:.2g}"
    )
    return [note]
