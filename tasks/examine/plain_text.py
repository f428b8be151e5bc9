"""Windows of plain text that models are compared on: Ingot's own short documents of many kinds.

A model that was tuned for one job keeps far more than that job needs; what quantisation did to the
rest shows on text that nobody tuned for. Tokens only; no model here.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from tasks.examine.protocol import Protocol, TextPlan
from tasks.examine.sequences import Forced, Source

CATEGORY = "text"
_PROSE = Path(__file__).parent / "prose"
_LEAST_TOKENS = 16  # of a window: what the plan's own shortest window has
_OF_CONTEXT = 0.9


class Encoder(typing.Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Tokenise a text; no special token is added."""
        ...


@dataclass(frozen=True)
class _Piece:
    document: str
    offset: int
    tokens: list[int]


def documents() -> dict[str, str]:
    """Give the texts by name, in an order that mixes the kinds and is the same everywhere."""
    files = sorted(_PROSE.glob("*.txt"), key=lambda file: _draw(file.stem))
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


def text_windows(tokenizer: Encoder, plan: TextPlan, *, context_length: int) -> list[Forced]:
    """Give the short windows: the first tokens of each document, then the next ones of each.

    Several windows of one document have its name, so that they stay one cluster. Where the
    documents do not yield the plan's windows, there are fewer; a last window of a document is
    left out unless it is whole.

    Every token but a window's first is scored, each with its position. llama.cpp's perplexity
    tool scores the second half of a window only, to give every token some context; here windows
    are compared with the same windows, and the flat distributions of the first tokens belong to
    what a user sees, too.

    Args:
        tokenizer: the checkpoint's.
        plan: how many windows, and of how many tokens.
        context_length: of the model; windows are never longer.
    """
    pieces = _pieces(tokenizer, plan, context_length)
    return [_forced(piece.document, [piece]) for piece in pieces]


def shortfall(windows: Sequence[Forced], plan: TextPlan) -> list[str]:
    """Say where the documents gave fewer windows than the plan asks for; nothing where they did."""
    if len(windows) >= plan.windows:
        return []
    there = f"{len(windows)} windows of {plan.window_tokens} tokens"
    return [f"plain text: {there} instead of {plan.windows}, because the documents have no more"]


def long_windows(tokenizer: Encoder, plan: TextPlan, *, context_length: int) -> list[Forced]:
    """Give the long windows: the short ones one after the other, without a break.

    Each token is scored in a short window and deep in a long one, so that the two differ in
    nothing but position and what came before; the rows have the document's name and the token's
    place in it. Where the plan wants more than there is, the windows are used again in another
    order.

    Args:
        tokenizer: the checkpoint's.
        plan: how many windows, and of how many tokens.
        context_length: of the model; long windows fill at most 0.9 of it.

    Returns:
        None at all where that is no longer than a short window.
    """
    pieces = _pieces(tokenizer, plan, context_length)
    room = min(plan.long_tokens, int(_OF_CONTEXT * context_length))
    if not pieces or room <= max(len(piece.tokens) for piece in pieces):
        return []
    stream = _endless(pieces)
    return [
        _forced(f"long-{number}", _filled(stream, room))
        for number in range(1, plan.long_windows + 1)
    ]


def control_windows(tokenizer: Encoder, protocol: Protocol, *, context_length: int) -> list[Forced]:
    """Give the windows that the FP32 graph is compared with Hugging Face on: some, and a long one.

    A conversion whose positions are wrong is right at the start: with a RoPE base of 9900 in
    place of 10000 the answers to the demo's questions were 3e-8 nats off, the end of a long
    window 1e-3 (measured 2026-11). Only the last tokens of each are scored, since transformers
    gives all logits of a pass at once.
    """
    short = text_windows(tokenizer, protocol.text, context_length=context_length)
    long = long_windows(tokenizer, protocol.text, context_length=context_length)
    chosen = [*short[: protocol.control_windows], *long[:1]]
    return [_tail(window, protocol.control_max_tokens) for window in chosen]


def _tail(window: Forced, tokens: int) -> Forced:
    whole = [*window.prompt, *window.answer]
    kept = min(tokens, len(window.answer))
    return replace(window, prompt=whole[:-kept], answer=whole[-kept:])


def _pieces(tokenizer: Encoder, plan: TextPlan, context_length: int) -> list[_Piece]:
    encoded = {name: tokenizer.encode(text) for name, text in documents().items()}
    size = min(plan.window_tokens, context_length)
    found: list[_Piece] = []
    for turn in count():
        pieces = [
            _Piece(name, turn * size, tokens[turn * size : (turn + 1) * size])
            for name, tokens in encoded.items()
        ]
        least = min(_LEAST_TOKENS, size) if turn == 0 else size
        whole = [piece for piece in pieces if len(piece.tokens) >= least]
        found += whole
        if not whole or len(found) >= plan.windows:
            break
    return found[: plan.windows]


def _endless(pieces: Sequence[_Piece]) -> Iterator[_Piece]:
    """Give the pieces again and again, in another order each time: other depths, other company."""
    for turn in count():
        if turn == 0:
            yield from pieces
        else:
            yield from sorted(
                pieces, key=lambda piece: _draw(f"{turn}\0{piece.document}\0{piece.offset}")
            )


def _filled(stream: Iterator[_Piece], room: int) -> list[_Piece]:
    """Take pieces until there is no room left; the last one is cut."""
    taken: list[_Piece] = []
    while room > 0:
        piece = next(stream)
        taken.append(_Piece(piece.document, piece.offset, piece.tokens[:room]))
        room -= len(piece.tokens)
    return taken


def _forced(name: str, pieces: Sequence[_Piece]) -> Forced:
    tokens = [token for piece in pieces for token in piece.tokens]
    sources = tuple(Source(piece.document, piece.offset, len(piece.tokens)) for piece in pieces)
    return Forced(name, CATEGORY, tokens[:1], tokens[1:], sources)


def _draw(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
