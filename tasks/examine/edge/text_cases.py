"""Edges of the tokenizer and the chat template: what texts become, and what is refused.

What ONNX Runtime GenAI 0.18 leaves open, such as U+0000, is closed at Ingot's border; such a case
passes when the border holds, and says what the engine did without it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence

from tasks.examine.edge import border
from tasks.examine.edge.case import (
    NEW_TOKENS,
    SENTENCE,
    Case,
    Engine,
    Seen,
    Subject,
    refusal,
    shown,
    told,
)

TEXTS = {
    "emoji joined by zero-width joiners": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 1️⃣",
    "right-to-left text": "أشعل ضوء المطبخ، من فضلك. הדלק את האור",
    "Chinese, Japanese and Korean": "请把厨房的灯打开。キッチンの電気を。불 켜줘",
    "zero-width space": "zero\u200bwidth",
    "byte order mark": "\ufeffhello \ufeff again",
}
_ACCENTS = "Crème brûlée à la carte, señor Müller, Dvořák, Åse"
_MANY = 100_000
_MOST_CONTROL_TOKENS = 16


def text_cases() -> list[Case]:
    """Give the cases, cheap ones first."""
    return [
        Case(
            "ordinary turn", "rendered with its text, in tokens of the model, answered", _ordinary
        ),
        Case("empty text", "no token; appending nothing is refused", _empty_text),
        Case("empty user turn", "refused by the template, or answered", _empty_user_turn),
        Case(
            "tokens of texts",
            "every id is in the model's vocabulary",
            _tokens_are_in_the_vocabulary,
        ),
        Case(
            "tokens that end an answer",
            "each is a control token of the tokenizer, and parsed as one",
            _ends_are_control_tokens,
        ),
        Case(
            "control token in a user's text",
            "can be tokenised as plain text: no control token, and the text comes back",
            _control_token_in_text,
        ),
        Case("U+0000 in a text", "refused by Ingot, because the engine cuts there", _nul),
        Case("half of a surrogate pair", "refused by the engine and by Ingot", _surrogate),
        Case("bytes that are not UTF-8", "refused by Ingot; the engine survives", _not_utf8),
        *(
            Case(name, "comes back from its tokens, in one piece and streamed", _round_trip(text))
            for name, text in TEXTS.items()
        ),
        Case(
            "decomposed accents",
            "Hugging Face's tokens of composed ones, because Ingot composes them",
            _decomposed,
        ),
        *(
            Case(
                name,
                "tokenised in time, comes back, and is refused where it does not fit",
                _round_trip(text, too_long=True),
            )
            for name, text in {
                "one word of 100,000 letters": "a" * _MANY,
                "100,000 spaces": " " * _MANY,
            }.items()
        ),
        Case("conversation that is not JSON", "refused by the engine", _not_json),
        Case("tools that are not JSON", "refused by the engine", _tools_not_json),
        Case("turn without a text", "refused by Ingot", _no_content),
        Case("conversation without a turn", "refused by Ingot", _no_turns),
    ]


def _turn(content: object) -> str:
    return json.dumps([{"role": "user", "content": content}])


def _ordinary(subject: Subject) -> Seen:
    engine = subject.engine
    rendered = engine.render(_turn(SENTENCE))
    if SENTENCE not in rendered:
        return Seen(False, f"rendered as {shown(rendered)!r}")
    prompt = engine.encode(rendered)
    if not all(0 <= token < engine.vocabulary_size for token in prompt):
        return Seen(False, f"a prompt with tokens outside of the vocabulary: {max(prompt)}")
    return Seen(True, _answered(engine, prompt))


def _answered(engine: Engine, prompt: Sequence[int]) -> str:
    session = engine.session(len(prompt) + NEW_TOKENS)
    session.append(prompt)
    return f"a prompt of {len(prompt)} tokens, answered, first with token {session.next()}"


def _empty_text(subject: Subject) -> Seen:
    tokens = subject.engine.encode("")
    words = refusal(lambda: subject.engine.session(NEW_TOKENS).append([]))
    return Seen(
        tokens == [] and words is not None, f"tokens {tokens}; appending nothing: {told(words)}"
    )


def _empty_user_turn(subject: Subject) -> Seen:
    # That the answer ends where the reference's does is measured beside it: tasks/examine/baits.py.
    engine = subject.engine
    prompts: list[list[int]] = []
    words = refusal(lambda: prompts.append(engine.encode(engine.render(_turn("")))))
    if words is not None:
        return Seen(True, f"the chat template refused it ({words})")
    return Seen(True, _answered(engine, prompts[0]))


def _tokens_are_in_the_vocabulary(subject: Subject) -> Seen:
    engine = subject.engine
    samples = [*TEXTS.values(), _ACCENTS, engine.render(_turn("Hello, 12345!"))]
    used = {token for text in samples for token in engine.encode(text)} | set(engine.eos_token_ids)
    outside = sorted(token for token in used if not 0 <= token < engine.vocabulary_size)
    what = f"{len(used)} ids used, {len(outside)} outside of 0 to {engine.vocabulary_size - 1}"
    return Seen(not outside, f"{what}: {outside[:5]}" if outside else what)


def _ends_are_control_tokens(subject: Subject) -> Seen:
    known = subject.plain.control_tokens
    wrong = [
        f"{token} ({known[token]!r} is parsed as {parsed[:5]})" if token in known else f"{token}"
        for token in subject.engine.eos_token_ids
        if (parsed := subject.engine.encode(known.get(token, ""))) != [token]
    ]
    ends = {token: known.get(token) for token in subject.engine.eos_token_ids}
    return Seen(not wrong, f"not control tokens: {', '.join(wrong)}" if wrong else f"{ends}")


def _control_token_in_text(subject: Subject) -> Seen:
    control = subject.plain.control_tokens
    # The ends of an answer first: those are what an injection is made of.
    ends = [token for token in subject.engine.eos_token_ids if token in control]
    tried = list(dict.fromkeys([*ends, *control]))[:_MOST_CONTROL_TOKENS]
    parsed = [
        control[token]
        for token in tried
        if token in subject.engine.encode(f"say {control[token]} now")
    ]
    broken = [control[token] for token in tried if not _is_plain(subject, control[token])]
    got = f"the engine parses {len(parsed)} of {len(tried)} as control tokens"
    if broken:
        got += f"; not plain text even with Hugging Face's tokenizer: {', '.join(broken)}"
    return Seen(bool(tried) and not broken, got)


def _is_plain(subject: Subject, mark: str) -> bool:
    text = f"say {mark} now"
    tokens = subject.plain.encode(text)
    back = subject.plain.decode(tokens)
    return not subject.plain.control_tokens.keys() & set(tokens) and _same(back, text)


def _nul(subject: Subject) -> Seen:
    engine = subject.engine
    cut = engine.encode("ab\x00cd") == engine.encode("ab")
    raw = "cuts the text there" if cut else "keeps the rest of the text"
    words = refusal(lambda: border.accepted_text("ab\x00cd"))
    return Seen(words is not None, f"the engine {raw}; Ingot: {told(words)}")


def _surrogate(subject: Subject) -> Seen:
    raw = refusal(lambda: subject.engine.encode("a\ud800b"))
    words = refusal(lambda: border.accepted_text("a\ud800b"))
    passed = raw is not None and words is not None
    return Seen(passed, f"the engine: {told(raw)}; Ingot: {told(words)}")


def _not_utf8(subject: Subject) -> Seen:
    raw = refusal(lambda: subject.engine.encode(b"\xff\xfe"))
    words = refusal(lambda: border.accepted_text(b"\xff\xfe"))
    return Seen(words is not None, f"the engine: {told(raw)}; Ingot: {told(words)}")


def _round_trip(text: str, *, too_long: bool = False) -> Callable[[Subject], Seen]:
    def run(subject: Subject) -> Seen:
        engine = subject.engine
        tokens = engine.encode(text)
        whole = engine.decode(tokens)
        if not (_same(whole, text) or _same(whole, subject.plain.there_and_back(text))):
            return Seen(False, f"{len(tokens)} tokens, which decode to {shown(whole)!r}")
        if engine.streamed(tokens) != whole:
            return Seen(False, f"streamed it is {shown(engine.streamed(tokens))!r}")
        got = f"{len(tokens)} tokens, back to the same text"
        if not too_long:
            return Seen(True, got)
        room = min(64, len(tokens) - 1)
        words = refusal(lambda: engine.session(room).append(tokens))
        return Seen(words is not None, f"{got}; with max_length {room}: {told(words)}")

    return run


def _same(back: str, text: str) -> bool:
    """Compare but for a leading space, which SentencePiece puts before every text."""
    return back.removeprefix(" ") == text.removeprefix(" ")


def _decomposed(subject: Subject) -> Seen:
    decomposed = unicodedata.normalize("NFD", _ACCENTS)
    composed = subject.plain.encode(unicodedata.normalize("NFC", _ACCENTS))
    raw = "the same" if subject.engine.encode(decomposed) == composed else "other"
    mended = subject.engine.encode(border.accepted_text(decomposed)) == composed
    got = "the same" if mended else "other"
    return Seen(mended, f"the engine alone gives {raw} tokens; behind Ingot's border {got}")


def _not_json(subject: Subject) -> Seen:
    words = refusal(lambda: subject.engine.render('[{"role": "user"'))
    return Seen(words is not None, told(words))


def _tools_not_json(subject: Subject) -> Seen:
    words = refusal(lambda: subject.engine.render(_turn("Hello"), tools="{tool"))
    return Seen(words is not None, told(words))


def _no_content(subject: Subject) -> Seen:
    return _conversation(subject, [{"role": "user", "content": None}])


def _no_turns(subject: Subject) -> Seen:
    return _conversation(subject, [])


def _conversation(subject: Subject, turns: list[dict[str, object]]) -> Seen:
    rendered: list[str] = []
    raw = refusal(lambda: rendered.append(subject.engine.render(json.dumps(turns))))
    what = f"renders {shown(rendered[0])!r}" if rendered else told(raw)
    words = refusal(lambda: border.require_turns(turns))
    return Seen(words is not None, f"the engine {what}; Ingot: {told(words)}")
