"""One examination in one child process: intact input, deadline, frames published when done.

The parent side of every examining child; stays light, because the flow imports it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from tasks.core.child import run_child
from tasks.core.errors import VariantUnusable
from tasks.core.records import Cost, Question, Record, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.core.store import Store
from tasks.examine.protocol import Protocol, ideal_text

Found = TypeVar("Found", bound=Record)
Say = Callable[[str], None]

# Slowest rates we let pass, for parameters * tokens: a third of what a loaded 2-core machine did
# on a 0.5B FP32 model (2026-11). A deadline ends hanging children; it is no forecast.
_PREFILL_WEIGHTS_PER_S = 7e9
_DECODE_WEIGHTS_PER_S = 1e9
_START_S = 300.0
_TEMPLATE_TOKENS = 64  # of the chat template, in each prompt
_BAITS = 32  # at least as many as there are
_BYTES_PER_TOKEN = 2.0  # low, so that the number of tokens comes out high


class FramesRequest(Record):
    """What every examining child is told: where to write its raw rows."""

    frames: Path


def examine_in_child(
    target: str,
    request: Callable[[Path], FramesRequest],
    found: type[Found],
    *,
    log_name: str,
    deadline_s: float,
    settings: Settings,
    say: Say,
    environment: Mapping[str, str] | None = None,
) -> tuple[Found, str, Cost]:
    """Run a child that writes frames into a staging folder, and publish them.

    Args:
        target: `package.module:function` of the child.
        request: gives the child's request for the folder its frames go to.
        found: record that the child gives back.
        log_name: file name below the log folder.
        deadline_s: when to give up.
        settings: where store and logs are.
        say: told what the child is doing.
        environment: added to the child's.

    Returns:
        The child's record, the digest of the published frames, and what the child cost.
    """
    store = store_of(settings)
    with store.staging() as frames:
        record, usage = run_child(
            target,
            request(frames),
            found,
            log=settings.logs / log_name,
            deadline_s=deadline_s,
            environment={"OMP_NUM_THREADS": str(usable_cores()), **(environment or {})},
            on_progress=say,
        )
        cost = Cost(seconds=usage.seconds, cpu_s=usage.cpu_s, peak_rss_bytes=usage.peak_rss_bytes)
        return record, store.publish(frames), cost


def intact_folder(variant: Variant, store: Store) -> Path:
    """Give a variant's folder after hashing every byte: published results were once swapped.

    Raises:
        VariantUnusable: it is gone, or not what was built; it is not in the store any more.
    """
    if not store.is_intact(variant.digest, deep=True):
        # A cache hit compares sizes only: with the object in place it would never be built anew.
        store.discard(variant.digest)
        raise VariantUnusable(
            f"the {variant.precision} variant in the store is not what was built; it was removed",
            expected=f"content {variant.digest[:12]} in {store.path(variant.digest)}",
            got="missing or changed files",
            next_step="run the release again: the variant is built anew",
        )
    return store.path(variant.digest)


def usable_cores() -> int:
    """Give the number of physical cores, but no more than this process may run on.

    More threads than that wait for each other; the affinity is that of containers and taskset,
    and is known on Linux only.
    """
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if not hasattr(os, "sched_getaffinity"):
        return physical
    return min(physical, len(os.sched_getaffinity(0)))


def deadline_s(
    parameters: int, questions: Sequence[Question], protocol: Protocol, *, passes: int
) -> float:
    """Give the seconds after which a child that asks these questions must be hanging.

    Args:
        parameters: weights of the model.
        questions: all that are asked.
        protocol: for the tokens that each answer may have, and for what is read and asked besides:
            plain text by two models, and questions again, guided or in filler.
        passes: how often prompts and answers go through a model of that size.
    """
    prompts = (message.content for asked in questions for message in asked.messages)
    prompt_tokens = sum(map(_most_tokens, prompts)) + _TEMPLATE_TOKENS * len(questions)
    answer_tokens = sum(_answer_limit(asked, protocol) for asked in questions)
    once_s = (
        parameters * prompt_tokens / _PREFILL_WEIGHTS_PER_S
        + parameters * answer_tokens / _DECODE_WEIGHTS_PER_S
    )
    longest = max((_answer_limit(asked, protocol) for asked in questions), default=0)
    return _START_S + passes * once_s + _besides_s(parameters, protocol, longest)


def _besides_s(parameters: int, protocol: Protocol, longest_answer: int) -> float:
    text, length = protocol.text, protocol.length
    windows = text.windows * text.window_tokens + text.long_windows * text.long_tokens
    filled = length.questions * max(length.prompt_tokens)
    answers = (length.questions + protocol.guided_max_questions) * longest_answer
    besides = answers + _BAITS * protocol.bait_tokens
    return (
        parameters * (2 * windows + filled) / _PREFILL_WEIGHTS_PER_S
        + parameters * besides / _DECODE_WEIGHTS_PER_S
    )


def _answer_limit(question: Question, protocol: Protocol) -> int:
    text = ideal_text(question)
    return protocol.answer_limit(None if text is None else _most_tokens(text))


def _most_tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)
