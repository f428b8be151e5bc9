"""How much of the reference's next-token distribution is left, on the assistant's tokens.

Accuracy and perplexity can miss a damaged model (15 % weight noise: accuracy +0.5 points,
perplexity ratio better than an honest INT4's); the KL divergence sees it. Measures only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from tasks.core.records import Measurement
from tasks.core.statistics import (
    Interval,
    cluster_quantile,
    cluster_ratio,
    mapped,
    widest,
    wilson,
)
from tasks.examine.divergence import TokenDistances, distances
from tasks.examine.generation import Engine
from tasks.examine.metrics import Metrics, not_measured, with_interval
from tasks.examine.protocol import Protocol
from tasks.examine.sequences import Forced

METRIC_NAMES = (
    "fidelity.kld_mean",
    "fidelity.kld_p50",
    "fidelity.kld_p90",
    "fidelity.kld_p99",
    "fidelity.kld_max",
    "fidelity.top1_agreement",
    "fidelity.top1_decisive",
    "fidelity.ppl_ratio",
)
_QUANTILES = {"fidelity.kld_p50": 0.5, "fidelity.kld_p90": 0.9, "fidelity.kld_p99": 0.99}
_DECISIVE = 0.5
_TOKENS = "assistant tokens, teacher-forced, full vocabulary, float64"
_CLUSTERS = "bootstrap over questions"


def compare_with_reference(
    reference: Engine, variant: Engine, sequences: Sequence[Forced], say: Callable[[str], None]
) -> pd.DataFrame:
    """Give one row for each token of each answer: question_id, category, position, distances."""
    frames = []
    for number, forced in enumerate(sequences, start=1):
        found = distances(
            reference.logits(forced.tokens, start=forced.start),
            variant.logits(forced.tokens, start=forced.start),
            forced.next_tokens,
        )
        frames.append(token_frame(forced, found))
        say(f"fidelity {number}/{len(sequences)}")
    return pd.concat(frames, ignore_index=True)


def token_frame(forced: Forced, found: TokenDistances) -> pd.DataFrame:
    """Put the distances of one sequence into rows."""
    return pd.DataFrame(
        {
            "question_id": forced.question_id,
            "category": forced.category,
            "position": np.arange(len(found.kld)) + len(forced.prompt),
            "token": forced.answer,
            "kld": found.kld,
            "nll_reference": found.nll_p,
            "nll_variant": found.nll_q,
            "same_top": found.same_top,
            "top_probability_reference": found.top_p,
        }
    )


def fidelity_metrics(rows: pd.DataFrame, protocol: Protocol) -> Metrics:
    """Summarise the token rows; intervals draw whole questions."""
    decisive = rows[rows["top_probability_reference"] > _DECISIVE]
    return {
        "fidelity.kld_mean": mean_kld(rows, protocol),
        **{name: _kld_quantile(rows, q, protocol) for name, q in _QUANTILES.items()},
        "fidelity.kld_max": Measurement(
            value=float(rows["kld"].max()), n=len(rows), unit="nat", method=f"largest, {_TOKENS}"
        ),
        "fidelity.top1_agreement": _agreement(rows, "all tokens", protocol),
        "fidelity.top1_decisive": _agreement(
            decisive, f"tokens where the reference's first choice has over {_DECISIVE}", protocol
        ),
        "fidelity.ppl_ratio": _perplexity_ratio(rows, protocol),
    }


def mean_kld(rows: pd.DataFrame, protocol: Protocol) -> Measurement:
    """Give the mean KL divergence over tokens with its interval over questions."""
    return with_interval(
        float(rows["kld"].mean()),
        _over_questions(rows, "kld", protocol),
        n=len(rows),
        unit="nat",
        method=f"mean over {_TOKENS}; {_CLUSTERS}",
        clusters="question",
    )


def _kld_quantile(rows: pd.DataFrame, quantile: float, protocol: Protocol) -> Measurement:
    return with_interval(
        float(rows["kld"].quantile(quantile)),
        cluster_quantile(
            rows["kld"].to_numpy(),
            pd.factorize(rows["question_id"])[0],
            quantile,
            samples=protocol.bootstrap_samples,
            seed=protocol.seed,
        ),
        n=len(rows),
        unit="nat",
        method=f"quantile {quantile} over {_TOKENS}; {_CLUSTERS}",
        clusters="question",
    )


def _agreement(rows: pd.DataFrame, which: str, protocol: Protocol) -> Measurement:
    if rows.empty:
        return not_measured(f"there are no {which}")
    agreed = int(rows["same_top"].sum())
    # Where every token agrees the bootstrap knows no spread; Wilson's interval does.
    drawn = _over_questions(rows, "same_top", protocol)
    return with_interval(
        agreed / len(rows),
        drawn and widest(drawn, wilson(agreed, len(rows))),
        n=len(rows),
        method=f"same most likely token, {which}; the wider of {_CLUSTERS} and Wilson over tokens",
        clusters="question",
    )


def _perplexity_ratio(rows: pd.DataFrame, protocol: Protocol) -> Measurement:
    change = rows.assign(change=rows["nll_variant"] - rows["nll_reference"])
    drawn = _over_questions(change, "change", protocol)
    return with_interval(
        math.exp(float(change["change"].mean())),
        drawn and mapped(drawn, math.exp),
        n=len(rows),
        method=f"exp of the mean difference of -ln p, {_TOKENS}; {_CLUSTERS}",
        clusters="question",
    )


def _over_questions(rows: pd.DataFrame, column: str, protocol: Protocol) -> Interval | None:
    sums = rows.groupby("question_id", sort=False)[column].agg(["sum", "size"])
    return cluster_ratio(
        sums["sum"].to_numpy(float),
        sums["size"].to_numpy(float),
        samples=protocol.bootstrap_samples,
        seed=protocol.seed,
    )
