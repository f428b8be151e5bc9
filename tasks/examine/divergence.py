"""How far two next-token distributions are from each other, token by token.

Works on blocks of logits over the full vocabulary, in float64 and a few rows at a time, so that
memory stays flat at a vocabulary of 152k; where the logits come from is the callers' matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import VariantUnusable

_CELLS = 1_000_000  # rows * vocabulary worked on at once: 8 MB for each of about five arrays

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TokenDistances:
    """One row a token; P is the reference, Q the variant. All of shape (tokens,).

    Attributes:
        kld: sum over the vocabulary of P (ln P - ln Q), in nats.
        nll_p, nll_q: -ln P and -ln Q of the token that comes next.
        dp: Q - P of that token.
        same_top: both have the same most likely token.
        top_p: P of its most likely token.
    """

    kld: Floats
    nll_p: Floats
    nll_q: Floats
    dp: Floats
    same_top: NDArray[np.bool_]
    top_p: Floats

    @staticmethod
    def joined(parts: Iterable[TokenDistances]) -> TokenDistances:
        """Put the rows of several parts one after the other."""
        held = list(parts)
        return TokenDistances(
            *(
                np.concatenate([getattr(part, field.name) for part in held])
                for field in fields(TokenDistances)
            )
        )


def distances(
    p_blocks: Iterable[NDArray[np.float32]],
    q_blocks: Iterable[NDArray[np.float32]],
    next_tokens: NDArray[np.int64],
) -> TokenDistances:
    """Compare two streams of logits of the same positions.

    Args:
        p_blocks: the reference's, blocks of shape (positions, vocabulary).
        q_blocks: the variant's; the blocks may be cut elsewhere.
        next_tokens: the token after each position, shape (positions,).

    Raises:
        VariantUnusable: logits are not finite, or their shapes differ.
    """
    parts = []
    position = 0
    for p, q in _aligned(p_blocks, q_blocks):
        parts.append(_compare(p, q, next_tokens[position : position + len(p)]))
        position += len(p)
    if position != len(next_tokens):
        raise VariantUnusable(
            "the engine left positions out",
            expected=f"logits of {len(next_tokens)} positions",
            got=f"{position}",
        )
    return TokenDistances.joined(parts)


def _aligned(
    p_blocks: Iterable[NDArray[np.float32]], q_blocks: Iterable[NDArray[np.float32]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Cut both streams at the same places, and small enough; ends with the shorter one."""
    q_stream = iter(q_blocks)
    q = np.empty((0, 0), np.float32)
    for p in p_blocks:
        rows = max(1, _CELLS // p.shape[1])
        done = 0
        while done < len(p):
            if not len(q):
                q = next(q_stream, q)
                if not len(q):
                    return
                _require_same_vocabulary(p, q)
            step = min(rows, len(p) - done, len(q))
            yield p[done : done + step], q[:step]
            q = q[step:]
            done += step


def _require_same_vocabulary(p: NDArray[np.float32], q: NDArray[np.float32]) -> None:
    if p.shape[1] != q.shape[1]:
        raise VariantUnusable(
            "the variant's logits do not fit the reference's",
            expected=f"a vocabulary of {p.shape[1]}",
            got=f"{q.shape[1]}",
            next_step="build it again from this checkpoint",
        )


def _compare(
    p_logits: NDArray[np.float32], q_logits: NDArray[np.float32], next_tokens: NDArray[np.int64]
) -> TokenDistances:
    p, q = p_logits.astype(np.float64), q_logits.astype(np.float64)
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        raise VariantUnusable("logits are not finite", next_step="look at the weights for overflow")
    p -= p.max(axis=1, keepdims=True)
    q -= q.max(axis=1, keepdims=True)
    exp_p = np.exp(p)
    sum_p = exp_p.sum(axis=1)
    log_p, log_q = np.log(sum_p), np.log(np.exp(q).sum(axis=1))
    kld = (exp_p * (p - q)).sum(axis=1) / sum_p - log_p + log_q
    rows = np.arange(len(p))
    nll_p, nll_q = log_p - p[rows, next_tokens], log_q - q[rows, next_tokens]
    return TokenDistances(
        kld=np.maximum(kld, 0.0),  # never negative but for rounding, about 1e-16
        nll_p=nll_p,
        nll_q=nll_q,
        dp=np.exp(-nll_q) - np.exp(-nll_p),
        same_top=p.argmax(axis=1) == q.argmax(axis=1),
        top_p=1 / sum_p,
    )
