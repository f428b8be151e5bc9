"""Does a variant folder render and tokenise conversations as transformers does?

A template that renders one newline more is another prompt than the model was trained on, and no
tool reports it. Compares texts and token ids only; no model runs here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol as Interface

from tasks.core.errors import InputError, VariantUnusable
from tasks.core.records import Message, Question
from tasks.examine.metrics import Metrics, count

_METHOD = "transformers against ONNX Runtime GenAI on the variant folder"
METRIC_NAMES = (
    "template.text_mismatches",
    "template.token_mismatches",
    "template.conversations",
    "template.eos_missing",
)


class TemplateRefusal(InputError):
    """The checkpoint's chat template refuses a conversation, such as one with a system turn."""


class Tokenizing(Interface):
    """What renders and tokenises: the checkpoint's tokenizer, or a loaded engine."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation."""

    def encode(self, text: str) -> list[int]:
        """Tokenise a rendered text."""


@dataclass(frozen=True)
class Conversation:
    """A conversation to render; with or without the prefix of the assistant's next turn."""

    name: str
    messages: Sequence[Message]
    add_generation_prompt: bool = True


@dataclass
class Parity:
    """What a comparison found.

    Attributes:
        conversations: those that both sides rendered.
        rendered: those that one of them did; the rest of what was asked says nothing.
    """

    conversations: int = 0
    rendered: int = 0
    text_mismatches: int = 0
    token_mismatches: int = 0
    notes: list[str] = field(default_factory=list)


def examine_template(
    truth: Tokenizing,
    shipped: Tokenizing,
    questions: Sequence[Question],
    *,
    end_of_turn: int | None,
    eos_token_ids: Sequence[int],
) -> tuple[Metrics, list[str]]:
    """Compare rendered texts and token ids, and look for the template's end in the EOS ids.

    Args:
        truth: the checkpoint's tokenizer and template.
        shipped: the variant folder's.
        questions: domain questions to render besides the fixed conversations.
        end_of_turn: the token that ends an assistant turn in the template, if one does.
        eos_token_ids: the tokens that end generation in the variant folder.

    Returns:
        Metrics, and what differs in words.
    """
    asked = [Conversation(question.id, question.messages) for question in questions]
    parity = compare([*CONVERSATIONS, *asked], truth, shipped)
    missing = end_of_turn not in eos_token_ids
    notes = parity.notes
    if missing:
        notes.insert(0, _missing_end(end_of_turn, eos_token_ids))
    n, both = parity.rendered, parity.conversations
    return {
        "template.text_mismatches": count(parity.text_mismatches, n, f"rendered text, {_METHOD}"),
        "template.token_mismatches": count(parity.token_mismatches, n, f"token ids, {_METHOD}"),
        "template.conversations": count(
            both,
            len(CONVERSATIONS) + len(asked),
            "conversations that both rendered, and so could be compared",
        ),
        "template.eos_missing": count(
            int(missing), 1, "the template's end-of-turn token against eos_token_id"
        ),
    }, notes


def compare(
    conversations: Sequence[Conversation], truth: Tokenizing, shipped: Tokenizing
) -> Parity:
    """Render and tokenise each conversation twice.

    One that both refuse is no mismatch, and is not counted: nothing was compared.
    """
    parity = Parity()
    for conversation in conversations:
        wanted = _rendered(truth, conversation)
        got = _rendered(shipped, conversation)
        parity.rendered += wanted is not None or got is not None
        parity.conversations += wanted is not None and got is not None
        if wanted != got:
            parity.text_mismatches += 1
            if parity.text_mismatches == 1:
                parity.notes.append(_text_note(conversation, wanted, got))
        wanted_ids, got_ids = _encoded(truth, wanted), _encoded(shipped, got)
        if wanted_ids != got_ids:
            parity.token_mismatches += 1
            if parity.token_mismatches == 1:
                parity.notes.append(_token_note(conversation, wanted_ids, got_ids))
    return parity


def normalisation_notes(truth: Tokenizing, shipped: Tokenizing) -> list[str]:
    """Say so when the shipped tokenizer does not normalise: a known gap of ONNX Runtime GenAI.

    Not counted as a mismatch, since no build can mend it: whoever sends text normalises it first,
    as `load_questions` does.
    """
    raw = unicodedata.normalize("NFD", _ACCENTS)
    if truth.encode(raw) == shipped.encode(raw):
        return []
    note = (
        "text with decomposed accents (e + U+0301) is tokenised unlike transformers does: ONNX "
        "Runtime GenAI 0.18 applies no Unicode NFC, so clients should normalise what they send"
    )
    return [note]


def _rendered(tokenizing: Tokenizing, conversation: Conversation) -> str | None:
    try:
        return tokenizing.render(
            conversation.messages, add_generation_prompt=conversation.add_generation_prompt
        )
    except (TemplateRefusal, VariantUnusable):
        return None


def _encoded(tokenizing: Tokenizing, text: str | None) -> list[int] | None:
    return None if text is None else tokenizing.encode(text)


def _missing_end(end_of_turn: int | None, eos_token_ids: Sequence[int]) -> str:
    if end_of_turn is None:
        return "no special token ends an assistant turn in the chat template: answers cannot stop"
    return (
        f"the chat template ends a turn with token {end_of_turn}, which is not among the variant's "
        f"eos_token_id {list(eos_token_ids)}: answers run to the length limit"
    )


def _text_note(conversation: Conversation, wanted: str | None, got: str | None) -> str:
    return (
        f"conversation '{conversation.name}' is rendered unlike transformers does: transformers "
        f"{_around(wanted, got)}, ONNX Runtime GenAI {_around(got, wanted)}"
    )


def _around(text: str | None, other: str | None, *, reach: int = 40) -> str:
    """Show a text near the first character that differs."""
    if text is None:
        return "refuses it"
    at = 0 if other is None else _first_difference(text, other)
    start, end = max(0, at - reach), at + reach
    return f"{'...' if start else ''}{text[start:end]!r}{'...' if end < len(text) else ''}"


def _first_difference(text: str, other: str) -> int:
    pairs = zip(text, other, strict=False)
    shorter = min(len(text), len(other))
    return next((index for index, (a, b) in enumerate(pairs) if a != b), shorter)


def _token_note(conversation: Conversation, wanted: list[int] | None, got: list[int] | None) -> str:
    if wanted is None or got is None:
        return f"conversation '{conversation.name}' is refused by one side only"
    pairs = enumerate(zip(wanted, got, strict=False))
    at = next((index for index, (a, b) in pairs if a != b), min(len(wanted), len(got)))
    return (
        f"conversation '{conversation.name}' is tokenised unlike transformers does from token {at} "
        f"on: transformers {wanted[at : at + 8]}, ONNX Runtime GenAI {got[at : at + 8]}"
    )


# ---------------------------------------------------------------- the fixed conversations


def _turns(*contents: str, system: str | None = None) -> list[Message]:
    """Alternate user and assistant, the user first."""
    opening = [Message(role="system", content=system)] if system is not None else []
    roles: list[Callable[[str], Message]] = [
        lambda text: Message(role="user", content=text),
        lambda text: Message(role="assistant", content=text),
    ]
    return opening + [roles[index % 2](text) for index, text in enumerate(contents)]


_ACCENTS = "Crème brûlée à la carte, señor Müller, Dvořák, Åse"

_CODE = """Why does this print 0?

```python
def total(xs: list[int]) -> int:
\tacc = 0
\tfor x in xs: acc =+ x   # {% not a tag %} {{ not a value }}
\treturn acc
```
"""

CONVERSATIONS = (
    Conversation("single", _turns("Turn the kitchen light on at 7 pm.")),
    Conversation("system", _turns("Hello", system="You are a terse assistant.\nAnswer in JSON.")),
    Conversation("empty system", _turns("Hello", system="")),
    Conversation("multi-turn", _turns("One?", "1", "And two?", "2", "And in words?")),
    Conversation("system and multi-turn", _turns("One?", "1", "And two?", system="Count.")),
    Conversation("finished turn", _turns("One?", "1"), add_generation_prompt=False),
    Conversation("empty user turn", _turns("")),
    Conversation("white space around", _turns("  \n\t two  spaces,\n\n\n three lines \r\n ")),
    Conversation("white space in an answer", _turns("Go on", "  padded \n", "And?")),
    Conversation("emoji", _turns("👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 1️⃣ ☺️")),
    Conversation(
        "Chinese, Japanese, Korean", _turns("请把厨房的灯打开。キッチンの電気を。불 켜줘")
    ),
    Conversation("right to left", _turns("أشعل ضوء المطبخ، من فضلك. הדלק את האור")),
    Conversation("composed accents", _turns(unicodedata.normalize("NFC", _ACCENTS))),
    Conversation("invisible characters", _turns("zero\u200bwidth\u200djoiner\ufeffbom\u00a0nbsp")),
    Conversation("digits and punctuation", _turns("12345 3.14159 -1e-9 $%&/()=?`~#'+*")),
    Conversation("code", _turns(_CODE)),
    Conversation("quotes and JSON", _turns('{"a": "b\\n", \'c\': "\\u00e9"} <b>&amp;</b>')),
    Conversation("control token in the text", _turns("say <|im_end|> and </s> and <|end|> now")),
    Conversation("long", _turns("The quick brown fox jumps over the lazy dog. " * 100)),
)
