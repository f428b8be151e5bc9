"""Does a variant say token by token what it says in one pass, and the same every time?

Prefill and decode run different kernels: an FP16 graph exported for the CPU passes every prefill
check and fails at its second token (measured, ONNX Runtime GenAI 0.18). Measures only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from tasks.core.errors import VariantUnusable
from tasks.examine.divergence import distances
from tasks.examine.fidelity import mean_kld, token_frame
from tasks.examine.generation import Engine
from tasks.examine.metrics import Metrics, count, none_measured
from tasks.examine.protocol import Protocol
from tasks.examine.sequences import Forced

METRIC_NAMES = ("decode.kld_mean", "decode.repeat_mismatches", "decode.chunk_mismatches")
_CHUNK_TOKENS = 7  # odd and small, so that even short prompts are cut in several pieces


def examine_decoding(
    engine: Engine,
    sequences: Sequence[Forced],
    protocol: Protocol,
    say: Callable[[str], None],
) -> tuple[Metrics, list[str]]:
    """Compare prefill with decoding, and greedy answers with themselves.

    An engine that fails is a finding, not an error: `decode.failed` is 1, nothing else has a
    value, and the notes have the engine's words.
    """
    try:
        parity = mean_kld(_prefill_against_decode(engine, sequences, say), protocol)
        repeats, notes = _repeats(engine, sequences, protocol, say)
    except VariantUnusable as problem:
        metrics = none_measured(METRIC_NAMES, f"the engine failed: {problem.message[:200]}")
        failed = count(1, 1, "the engine failed while decoding")
        return {**metrics, "decode.failed": failed}, [f"cannot decode: {problem.message}"]
    decoded = count(0, 1, "the engine decoded every token")
    return {"decode.kld_mean": parity, **repeats, "decode.failed": decoded}, notes


def _prefill_against_decode(
    engine: Engine, sequences: Sequence[Forced], say: Callable[[str], None]
) -> pd.DataFrame:
    frames = []
    for number, forced in enumerate(sequences, start=1):
        say(f"decode parity {number}/{len(sequences)}")
        found = distances(
            list(engine.logits(forced.tokens, start=forced.start)),
            engine.stepwise_logits(forced.tokens, start=forced.start),
            forced.next_tokens,
        )
        frames.append(token_frame(forced, found))
    return pd.concat(frames, ignore_index=True)


def _repeats(
    engine: Engine, sequences: Sequence[Forced], protocol: Protocol, say: Callable[[str], None]
) -> tuple[Metrics, list[str]]:
    unlike_again: list[str] = []
    unlike_in_pieces: list[str] = []
    for number, forced in enumerate(sequences, start=1):
        say(f"repeated answers {number}/{len(sequences)}")
        limit = min(protocol.decode_max_tokens, engine.context_length - len(forced.prompt))
        first = engine.complete(forced.prompt, limit, afresh=True)
        again = [engine.complete(forced.prompt, limit) for _ in range(protocol.repeats - 1)]
        unlike_again += [forced.question_id for other in again if other != first]
        if engine.complete(forced.prompt, limit, chunk=_CHUNK_TOKENS) != first:
            unlike_in_pieces.append(forced.question_id)
    metrics = {
        "decode.repeat_mismatches": count(
            len(unlike_again),
            len(sequences) * (protocol.repeats - 1),
            f"greedy tokens of {protocol.repeats} runs of a prompt, afresh and rewound",
        ),
        "decode.chunk_mismatches": count(
            len(unlike_in_pieces),
            len(sequences),
            f"greedy tokens after a prompt in pieces of {_CHUNK_TOKENS} tokens, and in one",
        ),
    }
    found = (("asked again", unlike_again), ("asked in pieces", unlike_in_pieces))
    notes = [f"{how}, other tokens: {', '.join(sorted(set(ids)))}" for how, ids in found if ids]
    return metrics, notes
