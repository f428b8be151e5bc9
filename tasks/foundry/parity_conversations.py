"""Conversations on which two renderings of one chat template are compared.

Data only. All texts are in Unicode NFC: ONNX Runtime GenAI 0.18 does not normalise, as questions
are when they are read.
"""

from __future__ import annotations

from tasks.core.records import Message


def _system(text: str) -> Message:
    return Message(role="system", content=text)


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


_TURNS = [_user("Turn it on."), _assistant("Which one?"), _user("The kitchen.")]

# No conversation without any text: Foundry Local refuses it before it looks at the template.
CONVERSATIONS: dict[str, list[Message]] = {
    "one turn": [_user("Hello, who are you?")],
    "system": [_system("Answer in JSON."), _user("Turn on the light.")],
    "three turns": _TURNS,
    "system and three turns": [_system("Be brief."), *_TURNS],
    "seven turns": [*_TURNS, _assistant("Done."), _user("Off."), _assistant("Done."), _user("On.")],
    "unicode": [_user("Schalte in der Küche das Licht ein, 電気をつけて, שלום, 👩‍👩‍👧 ☃ é")],
    "white space": [_user("  two spaces,\n\na blank line,\ta tab  \n")],
    "JSON and code": [_user('{"a": [1, {"b": null}]} {% if x %}{{ y }}{% endif %} <b>&amp;</b>')],
    "empty user message": [_system("Answer in JSON."), _user("")],
    "empty system message": [_system(""), _user("Turn on the light.")],
    "numbers": [_user("12345 67.89 1e-7 +49 30 1234567 19:00 2026-11-22")],
    "long": [_user("The light in the kitchen is on. " * 40)],
}
