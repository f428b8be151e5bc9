"""`ingot chat`: a conversation with a champion, turn by turn, on a terminal."""

from __future__ import annotations

import sys

from tasks.core.errors import InputError
from tasks.core.records import Message
from tasks.core.settings import Settings
from tasks.foundry.chat import open_chat
from tasks.foundry.ledger import champion_of, names

MAX_TOKENS = 512


def converse(name: str, question: str | None) -> None:
    """Load the champion of a name and talk with it until the input ends.

    Raises:
        InputError: nothing is registered under that name.
    """
    settings = Settings()
    champion = champion_of(settings, name)
    if champion is None:
        raise InputError(
            f"nothing is registered as {name!r}",
            expected=f"one of: {', '.join(names(settings)) or 'nothing is registered yet'}",
            next_step="run `ingot list`",
        )
    with open_chat(settings, champion.model_id) as chat:
        if question is not None:
            _say(chat.ask([Message(role="user", content=question)], max_tokens=MAX_TOKENS))
            return
        print(f"{champion.model_id}. An empty line or Ctrl-D ends the conversation.")
        history: list[Message] = []
        while text := _read_line():
            history.append(Message(role="user", content=text))
            answer = _say(chat.ask(history, max_tokens=MAX_TOKENS))
            history.append(Message(role="assistant", content=answer))


def _read_line() -> str:
    try:
        return input("> ")
    except EOFError:
        return ""


def _say(pieces: object) -> str:
    answer = ""
    for piece in pieces:  # type: ignore[attr-defined]
        sys.stdout.write(piece)
        sys.stdout.flush()
        answer += piece
    sys.stdout.write("\n")
    return answer
