"""Prompts and answers at the exact end of the context: accepted up to it, refused from there on.

The runtime counts prompt and `max_tokens` together against `context_length` of genai_config.json.
A folder whose context is longer than its RoPE cache breaks here only.
"""

from __future__ import annotations

from bisect import bisect_right

from tasks.foundry.edge.case import Case, Found, held_if, not_asked
from tasks.foundry.edge.refusals import REFUSED, over_long_streamed
from tasks.foundry.edge.service import Answer, Body, Service

# A prompt costs weights times tokens: this many take 7 s on a loaded machine of 2 cores.
MOST_WORK = 5e10
_UNIT = " a"
_TAILS = (" a", " b", ".", "1", "!", "é", "\n")
_OVER = 10
_UNITS_A_TOKEN = 4


def boundaries() -> list[Case]:
    """Give the cases at the end of the context."""
    return [
        _prompt(-8, new_tokens=8),
        _prompt(-1, new_tokens=1),
        _prompt(0, new_tokens=1),
        _prompt(1, new_tokens=1),
        Case("prompt of ten contexts", REFUSED, lambda s: _refused(s.post(_over_long(s)))),
        over_long_streamed(_over_long),
    ]


def answers_of_a_context() -> list[Case]:
    """Give the cases of answers that may fill the context, which are left as soon as they begin.

    Put last: the service learns only from a piece that it can not send that nobody listens any
    more. A random model whose tokens are no text went on, and the next request waited for over
    five minutes (measured, 2.2.1).
    """
    return [_answer(beyond) for beyond in (1, -8, -1, 0)]


def _prompt(beyond: int, *, new_tokens: int) -> Case:
    """A prompt so many tokens longer than the context, and a short answer."""
    fits = beyond + new_tokens <= 0

    def act(service: Service) -> Found:
        if fits and service.parameters * service.context > MOST_WORK:
            return not_asked(f"reading {service.context:,} tokens would take minutes on this model")
        text = text_of(service, service.context + beyond)
        if text is None:
            return not_asked(f"found no text of {service.context + beyond:,} tokens")
        answer = service.post(service.body(text, max_tokens=new_tokens))
        return _answered(answer, new_tokens) if fits else _refused(answer)

    name = f"prompt of context{beyond:+d} tokens, answer of {new_tokens}"
    if not fits:
        return Case(name, REFUSED, act)
    return Case(name, f"answered, with no more than {new_tokens} tokens", act, by_variant=True)


def _answer(beyond: int) -> Case:
    """The plain prompt and `max_tokens`, together so many tokens longer than the context."""
    name = f"prompt and max_tokens of context{beyond:+d}"

    def act(service: Service) -> Found:
        room = service.context - service.count(service.asking(None)) + beyond
        if beyond > 0:
            return _refused(service.post(service.body(max_tokens=room)))
        if not service.usual:
            return not_asked("the model writes no text: an answer that is left would go on")
        # Left after the first piece: an answer that fills the context is not waited for.
        stream = service.glance(service.body(max_tokens=room))
        begun = stream.refusal is None and not stream.error and bool(stream.events)
        return held_if(begun, f"begun: {stream.text!r}" if begun else str(stream))

    if beyond > 0:
        return Case(name, REFUSED, act)
    return Case(name, "the answer begins", act, by_variant=True)


def text_of(service: Service, tokens: int) -> str | None:
    """Give a text with which the plain conversation has exactly so many tokens, or None."""
    many = range(1, _UNITS_A_TOKEN * tokens)
    units = bisect_right(many, tokens, key=lambda count: service.tokens(_UNIT * count))
    return _filled_up(service, _UNIT * max(1, units), tokens)


def _filled_up(service: Service, text: str, tokens: int) -> str | None:
    """Add pieces of which each is more than no token, until there are exactly so many."""
    while (have := service.tokens(text)) < tokens:
        fitting = (text + tail for tail in _TAILS)
        longer = next((each for each in fitting if have < service.tokens(each) <= tokens), None)
        if longer is None:
            return None
        text = longer
    return text if have == tokens else None


def _over_long(service: Service) -> Body:
    return service.body(_UNIT * (_OVER * service.context))


def _answered(answer: Answer, most: int) -> Found:
    written = answer.used("completion_tokens")
    return held_if(answer.status == 200 and 0 <= written <= most, f"{answer}; {written} tokens")


def _refused(answer: Answer) -> Found:
    return held_if(answer.refused, str(answer))
