"""Texts at the edge of Unicode and of the chat template, as a user may type or paste them.

Whether the model answers them well is not asked; whether the whole text reaches it is.
"""

from __future__ import annotations

import json
from pathlib import Path

from tasks.core.records import Message
from tasks.foundry.edge.case import Case, Found, broken, held, held_if, known_gap, not_asked
from tasks.foundry.edge.service import Answer, Service, as_json

CONTROL, COMPOSED, DECOMPOSED = "control token", "composed accents", "decomposed accents"
_BLIND = "\u200b\ufeff\u00ad"  # zero-width space, byte order mark, soft hyphen
_SCRIPTS = f"👩‍👩‍👧 🇩🇪 שלום عليكم 電気をつけて हिन्दी{_BLIND}☃"
_ONE_WORD = 200
_LONG_WORD = 100_000
_FEW, _MANY = 4, 8


def odd_texts(folder: Path) -> dict[str, str]:
    """Give the texts whose tokens are counted in Hugging Face too, by name.

    Args:
        folder: of the variant, for the control token that ends its turns.
    """
    accents = {COMPOSED: "caf\u00e9 na\u00efve", DECOMPOSED: "cafe\u0301 nai\u0308ve"}
    token = control_token(folder)
    return accents if token is None else {**accents, CONTROL: f"on{token * _MANY}off"}


def control_token(folder: Path) -> str | None:
    """Give the text of an EOS token, one that the template writes if there is one.

    None when the folder does not say: no tokenizer.json, or no such token in it.
    """
    try:
        tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        eos = config["model"]["eos_token_id"]
    except (OSError, ValueError, KeyError):
        return None
    ids = eos if isinstance(eos, list) else [eos]
    ends = [str(token["content"]) for token in tokens if token["id"] in ids]
    template = folder / "chat_template.jinja"
    written = template.read_text(encoding="utf-8") if template.is_file() else ""
    return next((end for end in ends if end in written), ends[0] if ends else None)


def texts() -> list[Case]:
    """Give the cases of odd texts."""
    return [
        Case(
            "empty user message",
            "answered, or refused with a status of 400 to 499",
            lambda s: _answered_or_refused(s.post(s.body(messages=_user("")))),
        ),
        Case(
            "empty message in a conversation",
            "refused, or answered with that turn in the prompt",
            _empty_turn,
            gap="answered as if that turn had not been, with status 500 where the template "
            "refuses what is left",
        ),
        Case("white space only", "answered, as long as it is", lambda s: _whole(s, "  \n\t ")),
        Case("emoji, right to left, CJK, blind", "answered, whole", lambda s: _whole(s, _SCRIPTS)),
        Case("one word of 200 letters", "answered, whole", lambda s: _whole(s, "x" * _ONE_WORD)),
        Case(
            "one word of 100,000 letters",
            "tokenised; refused if longer than the context",
            _tokenised,
        ),
        Case(
            "template syntax", "answered, whole", lambda s: _whole(s, "{{ 7*7 }}{% for x in y %}")
        ),
        Case(
            "U+0000, escaped",
            "refused, or answered with the whole text in the prompt",
            _cut_at_zero,
            gap="the prompt is cut there, the end of the template too",
        ),
        Case(
            "composed accents",
            "as many prompt tokens as Hugging Face counts",
            lambda s: _as_counted(s, COMPOSED),
            by_variant=True,
        ),
        Case(
            "decomposed accents",
            "as many prompt tokens as Hugging Face counts",
            lambda s: _as_counted(s, DECOMPOSED, may_differ=True),
            gap="not composed before they are tokenised; applications should send NFC",
        ),
        Case(
            "control token in the user's text",
            "read as text",
            _control,
            gap="read as the control token, as Hugging Face does too: a user can end his turn "
            "and begin another; applications must take it out",
        ),
    ]


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _answered_or_refused(answer: Answer) -> Found:
    return held_if(answer.status == 200 or answer.refused, str(answer))


def _whole(service: Service, text: str) -> Found:
    """Hold the service's count of prompt tokens against the count without it."""
    answer = service.post(service.body(text))
    used, right = answer.used("prompt_tokens"), service.tokens(text)
    return held_if(
        answer.status == 200 and used == right, f"{answer}; {used} prompt tokens of {right}"
    )


def _tokenised(service: Service) -> Found:
    word = "x" * _LONG_WORD
    if (tokens := service.tokens(word)) <= service.context:
        return held(f"{tokens:,} tokens")
    answer = service.post(service.body(word))
    return held_if(answer.refused, str(answer))


def _empty_turn(service: Service) -> Found:
    said = [*service.asking(None), Message(role="assistant", content="Done.")]
    answer = service.post(service.body(messages=[*as_json(said), *_user("")]))
    if answer.refused:
        return held(str(answer))
    if answer.status != 200:
        return known_gap(str(answer)) if answer.status == 500 else broken(str(answer))
    used = answer.used("prompt_tokens")
    if used == service.count([*said, Message(role="user", content="")]):
        return held(str(answer))
    got = f"{answer}; {used} prompt tokens"
    return known_gap(got) if used == service.count(said) else broken(got)


def _cut_at_zero(service: Service) -> Found:
    answer = service.post(service.body("on\x00 and off and on again"))
    if answer.refused:
        return held(str(answer))
    used, whole = answer.used("prompt_tokens"), service.tokens("on and off and on again")
    got = f"{answer}; {used} prompt tokens of about {whole}"
    if answer.status != 200:
        return broken(got)
    return held(got) if used >= whole else known_gap(got)


def _as_counted(service: Service, name: str, *, may_differ: bool = False) -> Found:
    if name not in service.hugging_face:
        return not_asked("the checkpoint's template renders no such message")
    answer, right = service.post(service.body(service.odd_texts[name])), service.hugging_face[name]
    used = answer.used("prompt_tokens")
    got = f"{used} tokens, {right} in Hugging Face"
    if answer.status == 200 and used == right:
        return held(got)
    return known_gap(got) if may_differ and answer.status == 200 else broken(f"{answer}; {got}")


def _control(service: Service) -> Found:
    if CONTROL not in service.hugging_face:
        return not_asked("no control token is known, or the checkpoint's template renders none")
    many = service.odd_texts[CONTROL]
    token = control_of(many)
    answer = service.post(service.body(many))
    used = answer.used("prompt_tokens")
    each = (used - service.tokens(f"on{token * _FEW}off")) / (_MANY - _FEW)
    right = service.hugging_face[CONTROL]
    got = f"{each:g} tokens for each {token}; {used} in all, {right} in Hugging Face"
    if answer.status != 200 or each < 1:
        return broken(f"{answer}; {got}")
    if each > 1:
        return held(got)
    return known_gap(got) if used == right else broken(got)


def control_of(text: str) -> str:
    """Give the token that a text of the kind `CONTROL` repeats."""
    middle = text.removeprefix("on").removesuffix("off")
    return middle[: len(middle) // _MANY]
