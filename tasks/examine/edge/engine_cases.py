"""Edges of generation: lengths, token ids, search options, parallel and broken-off sequences.

Works on token ids drawn from the vocabulary, so that a fault of the tokenizer is not seen here.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tasks.examine.edge import border
from tasks.examine.edge.case import (
    NEW_TOKENS,
    PROMPT_TOKENS,
    Case,
    Engine,
    Seen,
    Subject,
    refusal,
    said,
    told,
)

_LENGTH = 32
_AFTER_THE_END = 2


def engine_cases() -> list[Case]:
    """Give the cases, cheap ones first."""
    return [
        *(
            Case(name, words, _prompt_near_the_limit(missing))
            for missing, name, words in (
                (-8, "prompt 8 tokens short of max_length", "8 new tokens, then refused"),
                (-1, "prompt 1 token short of max_length", "1 new token, then refused"),
                (0, "prompt as long as max_length", "refused"),
                (1, "prompt 1 token longer than max_length", "refused"),
            )
        ),
        Case("max_length of 0", "refused by the engine", _no_length),
        Case(
            "max_length beyond the context",
            "refused by the engine",
            _more_than_the_context,
        ),
        Case("generating past max_length", "refused, and said to be done", _past_the_limit),
        Case("generating past the end of an answer", "said to be done", _past_the_end),
        Case(
            "token ids at and beyond the end of the vocabulary",
            "the last is read, the next refused by Ingot",
            _ids_beyond,
        ),
        Case("negative token id", "refused by Ingot", _negative_id),
        Case("temperature of 0", "what greedy search says", _temperature_of_zero),
        Case("negative temperature", "refused by Ingot", _temperature(-1.0)),
        Case(
            "temperature that is not a number",
            "refused by Ingot",
            _temperature(math.nan),
        ),
        Case("top_p of 2", "refused by the engine", _top_p),
        Case("four threads at once", "each gets what it gets alone", _threads),
        Case(
            "four requests in one batch",
            "refused, or each gets as many tokens as asked for",
            _batch,
        ),
        Case(
            "second turn after the end of an answer",
            "what the whole conversation gives at once",
            _second_turn,
        ),
        Case(
            "rewound to the start",
            "what a new sequence gives; beyond its end is refused",
            _rewound,
        ),
        Case("dropped in mid-generation", "the next answer is as before", _dropped),
    ]


def _prompt(subject: Subject, length: int) -> list[int]:
    ids = [token for prompt in subject.prompts for token in prompt]
    return (ids * math.ceil(length / len(ids)))[:length]


def _prompt_near_the_limit(missing: int) -> Callable[[Subject], Seen]:
    def run(subject: Subject) -> Seen:
        # min_length masks the end of the answer, so that the limit alone ends it.
        session = subject.engine.session(_LENGTH, min_length=_LENGTH)
        new = 0

        def generate() -> None:
            nonlocal new
            session.append(_prompt(subject, _LENGTH + missing))
            while new <= _LENGTH:
                session.next()
                new += 1

        words = refusal(generate)
        guard = _border_agrees(subject, _LENGTH + missing, _LENGTH, refused=missing >= 0)
        passed = words is not None and new == max(0, -missing) and guard
        return Seen(passed, f"{new} new tokens, then {told(words)}")

    return run


def _border_agrees(subject: Subject, prompt: int, max_length: int, *, refused: bool) -> bool:
    words = refusal(lambda: border.require_room(prompt, max_length, subject.engine.context_length))
    return (words is not None) == refused


def _no_length(subject: Subject) -> Seen:
    return _refuses_length(subject, 0)


def _more_than_the_context(subject: Subject) -> Seen:
    return _refuses_length(subject, subject.engine.context_length + 1)


def _refuses_length(subject: Subject, length: int) -> Seen:
    words = refusal(lambda: subject.engine.session(length))
    guard = _border_agrees(subject, PROMPT_TOKENS, length, refused=True)
    return Seen(words is not None and guard, f"max_length {length}: {told(words)}")


def _past_the_limit(subject: Subject) -> Seen:
    prompt = subject.prompts[0]
    session = subject.engine.session(len(prompt) + 1)
    session.append(prompt)
    session.next()
    done = session.ended()
    words = refusal(session.next)
    return Seen(done and words is not None, f"done: {done}; one more: {told(words)}")


def _past_the_end(subject: Subject) -> Seen:
    # 0.18 goes on after the end with padding, so the caller must stop at is_done(), which is
    # what is held to here.
    end = subject.engine.eos_token_ids[0]
    session = subject.engine.session(_LENGTH)
    session.append(subject.prompts[0])
    before = session.ended()
    token = session.force_next(end)
    done = session.ended()
    more: list[int] = []
    words = refusal(lambda: more.extend(session.next() for _ in range(_AFTER_THE_END)))
    passed = token == end and done and not before
    return Seen(passed, f"done: {done}; more tokens: {told(words)} {more or ''}".rstrip())


def _ids_beyond(subject: Subject) -> Seen:
    # A quantised embedding of 0.18 reads beyond its end without a word (measured on a tied INT4).
    last = subject.engine.vocabulary_size - 1
    reads, allowed = _engine_and_border(subject.engine, [last])
    beyond, guard = _engine_and_border(subject.engine, [last + 1])
    passed = reads is None and allowed is None and guard is not None
    got = f"the engine: {last} {told(reads)}, {last + 1} {told(beyond)}; Ingot: {told(guard)}"
    return Seen(passed, got)


def _negative_id(subject: Subject) -> Seen:
    raw, guard = _engine_and_border(subject.engine, [subject.prompts[0][0], -5])
    return Seen(guard is not None, f"the engine: {told(raw)}; Ingot: {told(guard)}")


def _append(engine: Engine, tokens: Sequence[int]) -> None:
    engine.session(_LENGTH).append(tokens)


def _engine_and_border(engine: Engine, tokens: list[int]) -> tuple[str | None, str | None]:
    raw = refusal(lambda: _append(engine, tokens))
    return raw, refusal(lambda: border.require_token_ids(tokens, engine.vocabulary_size))


def _temperature_of_zero(subject: Subject) -> Seen:
    border.require_temperature(0.0)
    got = said(subject.engine, subject.prompts[0], do_sample=True, temperature=0.0)
    same = got == subject.usual
    return Seen(same, "the same tokens" if same else "other tokens than greedy search's")


def _temperature(temperature: float) -> Callable[[Subject], Seen]:
    def run(subject: Subject) -> Seen:
        options = {"do_sample": True, "temperature": temperature}
        raw = refusal(lambda: said(subject.engine, subject.prompts[0], **options))
        guard = refusal(lambda: border.require_temperature(temperature))
        return Seen(guard is not None, f"the engine: {told(raw)}; Ingot: {told(guard)}")

    return run


def _top_p(subject: Subject) -> Seen:
    options = {"do_sample": True, "top_p": 2.0}
    words = refusal(lambda: said(subject.engine, subject.prompts[0], **options))
    return Seen(words is not None, told(words))


def _threads(subject: Subject) -> Seen:
    alone = [said(subject.engine, prompt) for prompt in subject.prompts]
    with ThreadPoolExecutor(len(alone)) as pool:
        together = list(pool.map(lambda prompt: said(subject.engine, prompt), subject.prompts))
    unlike = sum(one != other for one, other in zip(alone, together, strict=True))
    return Seen(unlike == 0, f"{unlike} of {len(alone)} unlike")


def _batch(subject: Subject) -> Seen:
    answers: list[list[int]] = []
    prompts = subject.prompts
    words = refusal(lambda: answers.extend(subject.engine.batched(prompts, NEW_TOKENS)))
    if words is not None:
        return Seen(True, told(words))
    # A batch runs other kernels than one sequence, so near ties may fall otherwise (3 of 4 alike
    # in a random 0.5 B INT4): told, not held against it.
    lengths = [len(answer) for answer in answers]
    alone = [_tokens(subject.engine, prompt) for prompt in prompts]
    same = sum(one == other for one, other in zip(answers, alone, strict=True))
    got = f"{lengths} tokens; {same} of {len(alone)} as alone"
    return Seen(lengths == [NEW_TOKENS] * len(alone), got)


def _tokens(engine: Engine, prompt: Sequence[int]) -> list[int]:
    length = len(prompt) + NEW_TOKENS
    session = engine.session(length, min_length=length)
    session.append(prompt)
    return [session.next() for _ in range(NEW_TOKENS)]


def _second_turn(subject: Subject) -> Seen:
    engine = subject.engine
    first, second = subject.prompts[:2]
    end = engine.eos_token_ids[0]
    # min_length: the first turn must not end before its end is put there.
    session = engine.session(_LENGTH + PROMPT_TOKENS, min_length=len(first) + NEW_TOKENS)
    session.append(first)
    spoken = [session.next() for _ in range(NEW_TOKENS)]
    session.force_next(end)
    session.append(second)
    got = session.ranking()
    # 0.18 does not keep the end in the sequence; a caller that needs it there appends it.
    ways = {"without the end token": spoken, "with the end token": [*spoken, end]}
    like = [way for way, tokens in ways.items() if _at_once(engine, first, tokens, second) == got]
    return Seen(bool(like), f"as the conversation {like[0]}" if like else "another answer")


def _at_once(
    engine: Engine, first: Sequence[int], spoken: Sequence[int], second: Sequence[int]
) -> list[int]:
    """Give the ranking after a conversation in a new sequence, by the same kernels."""
    session = engine.session(_LENGTH + PROMPT_TOKENS)
    session.append(first)
    for token in spoken:
        session.append([token])
    session.append(second)
    return session.ranking()


def _rewound(subject: Subject) -> Seen:
    session = subject.engine.session(_LENGTH)
    session.append(subject.prompts[1])
    for _ in range(NEW_TOKENS):
        session.next()
    session.rewind(0)
    session.append(subject.prompts[0])
    same = session.ranking() == subject.usual[0]
    words = refusal(lambda: session.rewind(_LENGTH * 2))
    got = f"{'the same' if same else 'another'} answer; beyond its end: {told(words)}"
    return Seen(same and words is not None, got)


def _dropped(subject: Subject) -> Seen:
    session = subject.engine.session(_LENGTH)
    session.append(subject.prompts[1])
    for _ in range(3):
        session.next()
    del session
    gc.collect()
    same = said(subject.engine, subject.prompts[0]) == subject.usual
    return Seen(same, "the same answer" if same else "another answer")
