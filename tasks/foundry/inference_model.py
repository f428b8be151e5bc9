"""`inference_model.json`, which command lines up to Foundry Local 0.8 read beside a model.

Its PromptTemplate comes from what the chat template renders, never from a table of families; what
it cannot express is left out. Newer runtimes read the chat template alone, so nothing here can
change an answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from tasks.core.records import Message
from tasks.foundry.chat_template import DAYS_APART, Render, renderer_of

FILE_NAME = "inference_model.json"
CONTENT = "{Content}"

_SYSTEM, _USER, _ASSISTANT = "Sentinel5ystem", "Sentinel0User", "Sentinel4ssistant"
_SECOND_USER = "Sentinel1User"
_SAMPLING = ("max_length", "temperature", "top_p", "top_k", "repetition_penalty")
_ORDINARY = [
    ["Hello"],
    ["line one\n\nline two", "{braces} and 日本語", "it's 7 pm"],
    ["a", "b", "c", "d", "e"],
]


@dataclass(frozen=True)
class PromptTemplate:
    """A chat template in four strings with the placeholder `{Content}`.

    Attributes:
        system: a system message, with whatever opens a conversation before it; None when the
            chat template refuses system messages.
        user, assistant: one message each.
        prompt: a whole conversation of one user message, up to where the answer begins.
    """

    system: str | None
    user: str
    assistant: str
    prompt: str

    def join(self, messages: Sequence[Message]) -> str:
        """Write a conversation that ends with the user's message, as a reader of the file does."""
        opening, generation = self.prompt.split(self.user)
        pieces = {"system": self.system or "", "user": self.user, "assistant": self.assistant}
        start = "" if messages[0].role == "system" else opening
        body = (pieces[part.role].replace(CONTENT, part.content) for part in messages)
        return start + "".join(body) + generation


def write_inference_model(folder: Path, model_id: str) -> None:
    """Write the file into a model folder that is still being put together."""
    name, _, version = model_id.rpartition(":")
    template = prompt_template(renderer_of(folder))
    content = {
        # The version belongs to the name: without it the reader takes version 0.
        "Name": model_id,
        "Description": f"{name}, released by Ingot",
        "Version": version,
        "PromptTemplate": None if template is None else vars(template),
        "ModelConfig": _sampling_defaults(folder),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def prompt_template(render: Render | None) -> PromptTemplate | None:
    """Take a chat template apart, or give None where four strings cannot express it."""
    if render is None:
        return None
    try:
        template = _split(render)
        return template if _agrees(template, render) else None
    except (TemplateError, _Inexpressible, TypeError):
        return None


class _Inexpressible(Exception):
    """The rendered text does not fall apart into one piece a message."""


def _split(render: Render) -> PromptTemplate:
    user, assistant = _message("user", _USER), _message("assistant", _ASSISTANT)
    second = _message("user", _SECOND_USER)
    one = render([user], generation=False)
    two = render([user, assistant], generation=False)
    three = render([user, assistant, second], generation=False)
    user_piece = _piece(_after(two, three), _SECOND_USER)
    generation = _after(three, render([user, assistant, second], generation=True))
    opening = _before(user_piece.replace(CONTENT, _USER), one)
    return PromptTemplate(
        system=_system_piece(render, user_piece),
        user=user_piece,
        assistant=_piece(_after(one, two), _ASSISTANT),
        prompt=opening + user_piece + generation,
    )


def _system_piece(render: Render, user_piece: str) -> str | None:
    user = _message("user", _USER)
    try:
        text = render([_message("system", _SYSTEM), user], generation=False)
    except TemplateError:
        return None
    return _piece(_before(user_piece.replace(CONTENT, _USER), text), _SYSTEM)


def _after(start: str, text: str) -> str:
    if not text.startswith(start):
        raise _Inexpressible
    return text[len(start) :]


def _before(end: str, text: str) -> str:
    if not text.endswith(end):
        raise _Inexpressible
    return text[: len(text) - len(end)]


def _piece(text: str, sentinel: str) -> str:
    sentinels = (_SYSTEM, _USER, _ASSISTANT, _SECOND_USER)
    if text.count(sentinel) != 1 or sum(text.count(each) for each in sentinels) != 1:
        raise _Inexpressible
    return text.replace(sentinel, CONTENT)


def _agrees(template: PromptTemplate, render: Render) -> bool:
    """Compare with the chat template itself, today and on another day: a baked-in date goes off."""
    if template.prompt.count(template.user) != 1:
        return False
    return all(
        template.join(conversation) == render(conversation, generation=True, days_ahead=days)
        for conversation in _conversations(template)
        for days in (0, DAYS_APART)
    )


def _conversations(template: PromptTemplate) -> list[list[Message]]:
    chats = [[_turn(place, text) for place, text in enumerate(texts)] for texts in _ORDINARY]
    if template.system is None:
        return chats
    return chats + [[_message("system", "Answer in JSON."), *chat] for chat in chats]


def _turn(place: int, text: str) -> Message:
    return _message("assistant" if place % 2 else "user", text)


def _message(role: Any, text: str) -> Message:
    return Message(role=role, content=text)


def _sampling_defaults(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    search: dict[str, Any] = config.get("search", {})
    return {key: search[key] for key in _SAMPLING if key in search}
