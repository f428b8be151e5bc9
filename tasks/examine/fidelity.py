"""How much of the reference's next-token distribution is left, on answers and on plain text.

Accuracy and perplexity can miss a damaged model (15 % weight noise: accuracy +0.5 points,
perplexity ratio better than an honest INT4's); the KL divergence sees it. Measures only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.core.records import Measurement
from tasks.core.statistics import (
    LEVEL,
    Interval,
    cluster_quantile,
    cluster_ratio,
    mapped,
    widest,
    wilson,
)
from tasks.examine.divergence import TokenDistances, distances
from tasks.examine.generation import Engine
from tasks.examine.metrics import Metrics, unmeasurable, with_interval
from tasks.examine.protocol import Protocol
from tasks.examine.sequences import Forced

_QUANTILES = {"kld_p50": 0.5, "kld_p90": 0.9, "kld_p99": 0.99, "kld_p999": 0.999}
_DECISIVE = 0.5
_HOW = "teacher-forced, full vocabulary, float64"


@dataclass(frozen=True)
class Corpus:
    """What the compared tokens belong to.

    Attributes:
        name: in the column `corpus` of the rows.
        prefix: of the metrics' names.
        tokens: in words.
        cluster: what the bootstrap draws, in the singular.
        grows: a second look adds to it, and its intervals share the error of two.
    """

    name: str
    prefix: str
    tokens: str
    cluster: str
    grows: bool = False

    def level(self, protocol: Protocol) -> float:
        """Give the level of the intervals."""
        return protocol.level if self.grows else LEVEL

    def clusters(self, rows: pd.DataFrame, protocol: Protocol) -> str:
        """Say how the interval was made."""
        level = self.level(protocol)
        words = f"bootstrap over {rows['question_id'].nunique()} {self.cluster}s"
        return words if level == LEVEL else f"{words}, {100 * level:g} % interval"

    def drawn(self, rows: pd.DataFrame, column: str, protocol: Protocol) -> Interval | None:
        """Give the interval of a column's mean over tokens, drawing whole clusters."""
        sums = rows.groupby("question_id", sort=False)[column].agg(["sum", "size"])
        return cluster_ratio(
            sums["sum"].to_numpy(float),
            sums["size"].to_numpy(float),
            samples=protocol.bootstrap_samples,
            seed=protocol.seed,
            level=self.level(protocol),
        )


QUESTIONS = Corpus("questions", "fidelity", "assistant tokens", "question", grows=True)
TEXT = Corpus("text", "text", "tokens of plain text", "document")
LONG = Corpus("long", "lengths", "tokens of long plain text", "document")
CONTROL = Corpus(
    "control", "reference", "tokens of answers and of plain text", "sequence", grows=True
)


def _names(corpus: Corpus) -> tuple[str, ...]:
    names = (
        *("kld_mean", *_QUANTILES, "kld_max", "top1_agreement", "top1_decisive"),
        *("ppl_ratio", "dp_rms", "dp_mean"),
    )
    return tuple(f"{corpus.prefix}.{name}" for name in names)


METRIC_NAMES = _names(QUESTIONS)
TEXT_METRIC_NAMES = _names(TEXT)


def compare_with_reference(
    reference: Engine,
    variant: Engine,
    sequences: Sequence[Forced],
    say: Callable[[str], None],
    *,
    corpus: Corpus = QUESTIONS,
) -> pd.DataFrame:
    """Give one row for each forced token: where it is from, its position, its distances.

    One sequence at a time, and of that one block of logits of each model: at a vocabulary of
    152k 16 windows of 256 tokens took 0.71 GiB above the models, no more in the last window than
    in the third (measured 2026-11, benchmarks/fidelity_memory.py).
    """
    frames = []
    for number, forced in enumerate(sequences, start=1):
        found = distances(
            reference.logits(forced.tokens, start=forced.start),
            variant.logits(forced.tokens, start=forced.start),
            forced.next_tokens,
        )
        frames.append(token_frame(forced, found, corpus=corpus))
        say(f"comparing {corpus.tokens} {number}/{len(sequences)}")
    return pd.concat(frames, ignore_index=True)


def token_frame(
    forced: Forced, found: TokenDistances, *, corpus: Corpus = QUESTIONS
) -> pd.DataFrame:
    """Put the distances of one sequence into rows.

    `position` is a token's place in the sequence, `offset` that in its document or answer;
    `question_id` is the document's name in plain text.
    """
    origins, offsets = forced.origins()
    return pd.DataFrame(
        {
            "corpus": corpus.name,
            "question_id": origins,
            "category": forced.category,
            "position": np.arange(len(found.kld)) + len(forced.prompt),
            "offset": offsets,
            "token": forced.answer,
            "kld": found.kld,
            "nll_reference": found.nll_p,
            "nll_variant": found.nll_q,
            "dp": found.dp,
            "same_top": found.same_top,
            "top_probability_reference": found.top_p,
        }
    )


def fidelity_metrics(
    rows: pd.DataFrame, protocol: Protocol, *, corpus: Corpus = QUESTIONS
) -> Metrics:
    """Summarise the token rows of one corpus; intervals draw whole questions or documents."""
    own = rows[rows["corpus"] == corpus.name]
    if own.empty:
        return dict.fromkeys(_names(corpus), unmeasurable(f"there are no {corpus.tokens}"))
    tokens = _Tokens(own, protocol, corpus)
    squares = own.assign(square=own["dp"] ** 2)
    found = {
        "kld_mean": mean_kld(own, protocol, corpus=corpus),
        **{name: tokens.kld_quantile(q) for name, q in _QUANTILES.items()},
        "kld_max": Measurement(
            value=float(own["kld"].max()),
            n=len(own),
            unit="nat",
            method=f"largest, {corpus.tokens}, {_HOW}",
        ),
        "top1_agreement": tokens.agreement(own, "all tokens"),
        "top1_decisive": tokens.agreement(
            own[own["top_probability_reference"] > _DECISIVE],
            f"tokens where the reference's first choice has over {_DECISIVE}",
        ),
        "ppl_ratio": tokens.perplexity_ratio(),
        "dp_rms": tokens.measured(
            math.sqrt(float(squares["square"].mean())),
            _root(corpus.drawn(squares, "square", protocol)),
            f"root mean square of the difference of the token's probability, {corpus.tokens}",
        ),
        "dp_mean": tokens.measured(
            float(own["dp"].mean()),
            corpus.drawn(own, "dp", protocol),
            f"mean difference of the token's probability, {corpus.tokens}",
        ),
    }
    return {f"{corpus.prefix}.{name}": measurement for name, measurement in found.items()}


def mean_kld(rows: pd.DataFrame, protocol: Protocol, *, corpus: Corpus = QUESTIONS) -> Measurement:
    """Give the mean KL divergence over tokens with its interval over questions or documents."""
    return _Tokens(rows, protocol, corpus).measured(
        float(rows["kld"].mean()),
        corpus.drawn(rows, "kld", protocol),
        f"mean over {corpus.tokens}",
        unit="nat",
    )


@dataclass(frozen=True)
class _Tokens:
    """The rows of one corpus, and how they are summarised."""

    rows: pd.DataFrame
    protocol: Protocol
    corpus: Corpus

    def measured(
        self, value: float, interval: Interval | None, what: str, *, unit: str = "1"
    ) -> Measurement:
        return with_interval(
            value,
            interval,
            n=len(self.rows),
            unit=unit,
            method=f"{what}, {_HOW}; {self.corpus.clusters(self.rows, self.protocol)}",
            clusters=self.corpus.cluster,
            final=True,
        )

    def kld_quantile(self, quantile: float) -> Measurement:
        interval = cluster_quantile(
            self.rows["kld"].to_numpy(),
            pd.factorize(self.rows["question_id"])[0],
            quantile,
            samples=self.protocol.bootstrap_samples,
            seed=self.protocol.seed,
            level=self.corpus.level(self.protocol),
        )
        return self.measured(
            float(self.rows["kld"].quantile(quantile)),
            interval,
            f"quantile {quantile} over {self.corpus.tokens}",
            unit="nat",
        )

    def agreement(self, rows: pd.DataFrame, which: str) -> Measurement:
        if rows.empty:
            return unmeasurable(f"there are no {which}")
        agreed = int(rows["same_top"].sum())
        # Where every token agrees the bootstrap knows no spread; Wilson's interval does.
        drawn = self.corpus.drawn(rows, "same_top", self.protocol)
        level = self.corpus.level(self.protocol)
        words = self.corpus.clusters(rows, self.protocol)
        return with_interval(
            agreed / len(rows),
            drawn and widest(drawn, wilson(agreed, len(rows), level=level)),
            n=len(rows),
            method=f"same most likely token, {which}; the wider of {words} and Wilson over tokens",
            clusters=self.corpus.cluster,
            final=True,
        )

    def perplexity_ratio(self) -> Measurement:
        change = self.rows.assign(change=self.rows["nll_variant"] - self.rows["nll_reference"])
        drawn = self.corpus.drawn(change, "change", self.protocol)
        return self.measured(
            math.exp(float(change["change"].mean())),
            drawn and mapped(drawn, math.exp),
            f"exp of the mean difference of -ln p, {self.corpus.tokens}",
        )


def _root(interval: Interval | None) -> Interval | None:
    return interval and mapped(interval, math.sqrt)
