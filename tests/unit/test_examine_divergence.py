"""Token distances are exact in float64, whatever the block sizes; damage is never averaged away."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from tasks.core.errors import VariantUnusable
from tasks.examine import divergence
from tasks.examine.divergence import distances

RNG = np.random.default_rng(0)
P = RNG.normal(0, 4, (40, 300)).astype(np.float32)
Q = (P + RNG.normal(0, 0.5, P.shape)).astype(np.float32)
NEXT = RNG.integers(0, 300, 40)


def test_distances_are_scipys() -> None:
    found = distances([P], [Q], NEXT)
    p, q = log_softmax(P.astype(float), axis=1), log_softmax(Q.astype(float), axis=1)
    assert found.kld == pytest.approx(entropy(np.exp(p), np.exp(q), axis=1), rel=1e-9)
    assert found.nll_p == pytest.approx(-p[np.arange(40), NEXT])
    assert found.nll_q == pytest.approx(-q[np.arange(40), NEXT])
    gained = np.exp(q[np.arange(40), NEXT]) - np.exp(p[np.arange(40), NEXT])
    assert found.dp == pytest.approx(gained, abs=1e-12)
    assert found.top_p == pytest.approx(np.exp(p.max(axis=1)))
    assert (found.same_top == (P.argmax(1) == Q.argmax(1))).all()


def test_blocks_may_be_cut_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = distances([P], [Q], NEXT)
    monkeypatch.setattr(divergence, "_CELLS", 900)
    pieces = distances([P[:7], P[7:]], [Q[:1], Q[1:30], Q[30:]], NEXT)
    assert (pieces.kld == whole.kld).all()


def test_probability_that_is_lost_is_negative() -> None:
    sure = np.zeros((1, 300), np.float32)
    sure[0, 7] = 20
    found = distances([sure], [np.zeros((1, 300), np.float32)], np.array([7]))
    assert found.dp == pytest.approx([1 / 300 - 1], abs=1e-5)


def test_equal_distributions_are_at_distance_zero() -> None:
    found = distances([P], [P + np.float32(3)], NEXT)
    assert found.kld.max() < 1e-11
    assert found.same_top.all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(broken: float) -> None:
    damaged = Q.copy()
    damaged[3, 5] = broken
    with pytest.raises(VariantUnusable, match="not finite"):
        distances([P], [damaged], NEXT)


def test_missing_positions_are_refused() -> None:
    with pytest.raises(VariantUnusable, match="left positions out"):
        distances([P[:30]], [Q[:30]], NEXT)
    with pytest.raises(VariantUnusable, match="left positions out"):
        distances([P], [Q[:30]], NEXT)


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(VariantUnusable, match="do not fit"):
        distances([P], [Q[:, :200]], NEXT)


def test_only_one_block_of_logits_is_held_at_a_time() -> None:
    held: list[weakref.ref[np.ndarray]] = []
    most = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal most
        for _ in range(20):
            block = np.zeros((2, 300), np.float32)
            held.append(weakref.ref(block))
            most = max(most, sum(one() is not None for one in held))
            yield block

    distances(blocks(), (Q[:1] for _ in range(40)), NEXT)
    assert most <= 2
    list(blocks())
    assert most == 20


def test_memory_is_flat_at_a_vocabulary_of_152k(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak_mib() -> float:
        block = np.zeros((32, 151_936), np.float32)
        tracemalloc.start()
        distances([block], [block], np.zeros(32, np.int64))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak / 2**20

    assert peak_mib() < 60
    monkeypatch.setattr(divergence, "_CELLS", 10**9)
    assert peak_mib() > 120
