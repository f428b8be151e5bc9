"""Divergence deep in long inputs is held against that of the same tokens in short ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from tasks.examine.divergence import TokenDistances
from tasks.examine.fidelity import LONG, TEXT, Corpus, token_frame
from tasks.examine.positions import METRIC_NAMES, position_metrics
from tasks.examine.protocol import Protocol, TextPlan
from tasks.examine.sequences import Forced, Source

SIZE = 64
PROTOCOL = Protocol(
    bootstrap_samples=300, text=TextPlan(window_tokens=SIZE, long_windows=4, long_tokens=8 * SIZE)
)

# How much a token's divergence is multiplied by at a position.
Profile = Callable[[np.ndarray], np.ndarray]


def level(position: np.ndarray) -> np.ndarray:
    return np.ones(len(position))


def lost_after_100(position: np.ndarray) -> np.ndarray:
    return np.where(position < 100, 1.0, 5.0)


def found(kld: np.ndarray) -> TokenDistances:
    same = np.zeros(len(kld))
    return TokenDistances(kld, same, same, same, np.ones(len(kld), bool), np.ones(len(kld)))


def rows(profile: Profile, *, scale: float = 0.01, documents: int = 32) -> pd.DataFrame:
    """Score 32 documents alone and eight in a row; words differ, positions as the profile says."""
    rng = np.random.default_rng(0)
    words = {f"d{n}": scale * (0.2 + n % 4) * rng.exponential(1, SIZE) for n in range(documents)}

    def frame(names: list[str], corpus: Corpus) -> pd.DataFrame:
        sources = tuple(Source(name, 0, SIZE) for name in names)
        forced = Forced(names[0], "text", [1], [2] * (SIZE * len(names) - 1), sources)
        kld = np.concatenate([words[name] for name in names])[1:]
        return token_frame(forced, found(kld * profile(np.arange(1, len(kld) + 1))), corpus=corpus)

    alone = [frame([name], TEXT) for name in words]
    together = [frame(list(words)[n : n + 8], LONG) for n in range(0, documents, 8)]
    return pd.concat([*alone, *together], ignore_index=True)


def test_level_divergence_does_not_grow_whatever_the_words_are() -> None:
    metrics, buckets, notes = position_metrics(rows(level), PROTOCOL)
    assert metrics["lengths.kld_growth"].value == pytest.approx(1)
    assert metrics["lengths.kld_growth"].ci95 == pytest.approx((1, 1))
    assert notes == []
    assert buckets["kld_mean"].max() > 1.2 * buckets["kld_mean"].min()


def test_divergence_that_grows_with_position_is_caught_and_told() -> None:
    metrics, _, notes = position_metrics(rows(lost_after_100), PROTOCOL)
    growth = metrics["lengths.kld_growth"]
    assert growth.ci95 is not None
    assert growth.ci95[0] > 3
    assert growth.n == 28 * (SIZE - 1)
    assert "bootstrap over 28 documents" in growth.method
    assert notes[0].startswith("from position 64 on tokens lose 4.8 times [")
    assert "worst between positions 128 and 255" in notes[0]


def test_divergence_that_is_nothing_does_not_grow() -> None:
    metrics, _, notes = position_metrics(rows(lost_after_100, scale=1e-9), PROTOCOL)
    assert metrics["lengths.kld_growth"].value == pytest.approx(1, abs=0.02)
    assert notes == [] or "1 times" in notes[0]


def test_buckets_hold_every_token_once_and_double() -> None:
    table = rows(level)
    _, buckets, _ = position_metrics(table, PROTOCOL)
    assert buckets["bucket_start"].tolist() == [0, 64, 128, 256]
    assert buckets["bucket_end"].tolist() == [64, 128, 256, 512]
    assert buckets["n"].sum() == (table["corpus"] == "long").sum()
    assert (buckets["low"] <= buckets["kld_mean"]).all()
    assert (buckets["kld_mean"] <= buckets["high"]).all()
    assert buckets["documents"].tolist() == [4, 4, 8, 16]


def test_context_without_room_for_long_windows_has_nothing_to_measure() -> None:
    table = rows(level)
    metrics, buckets, notes = position_metrics(table[table["corpus"] == "text"], PROTOCOL)
    assert tuple(metrics) == METRIC_NAMES
    assert not any(measured.applies for measured in metrics.values())
    assert buckets.empty
    assert notes == []


def test_context_with_room_for_few_documents_is_nothing_to_judge_by() -> None:
    metrics, _, _ = position_metrics(rows(level, documents=2), PROTOCOL)
    assert metrics["lengths.kld_growth"].value is None
    assert not metrics["lengths.kld_growth"].applies
    assert "room for 1 documents" in metrics["lengths.kld_growth"].method
