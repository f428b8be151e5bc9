"""What must be checked before anything reaches ONNX Runtime GenAI, because it does not check.

Texts pass the border that Ingot's own questions pass; token ids, lengths and temperatures, which
Ingot never takes from anyone, have their rules here. Nothing here calls an engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.core.errors import InputError, QuestionsRefused
from tasks.core.questions import load_questions

HOTTEST = 2.0


def accepted_text(content: str | bytes | None) -> str:
    """Give the text of a user turn as the engine may see it: in NFC.

    Args:
        content: what stands in the turn; bytes stand there as they are.

    Raises:
        InputError: no text, U+0000, half of a surrogate pair, or bytes that are not UTF-8.
    """
    if isinstance(content, bytes):
        return _read(_question([{"role": "user", "content": "BYTES"}]).replace(b"BYTES", content))
    return _read(_question([{"role": "user", "content": content}]))


def require_turns(turns: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a conversation that is none.

    Raises:
        InputError: no turn, or one that is not a role and a text.
    """
    _read(_question(turns))


def require_token_ids(tokens: Sequence[int], vocabulary_size: int) -> None:
    """Refuse ids that are no tokens: -5 is taken for the fifth from the end (measured, 0.18).

    Raises:
        InputError: there is none, or one is outside of 0..vocabulary_size - 1.
    """
    if not tokens:
        raise InputError("there are no tokens", expected="at least one")
    if wrong := [token for token in tokens if not 0 <= token < vocabulary_size]:
        raise InputError(
            f"{len(wrong)} token ids are outside of the vocabulary",
            expected=f"0 to {vocabulary_size - 1}",
            got=f"{wrong[0]}",
        )


def require_room(prompt_tokens: int, max_length: int, context_length: int) -> None:
    """Refuse a prompt that leaves no room for one new token.

    Raises:
        InputError: it does not.
    """
    if not prompt_tokens < max_length <= context_length:
        raise InputError(
            "the prompt leaves no room for an answer",
            expected=f"prompt < max_length <= {context_length} tokens",
            got=f"a prompt of {prompt_tokens} and max_length {max_length}",
        )


def require_temperature(temperature: float) -> None:
    """Refuse what is no temperature: -1 turns the distribution around (accepted by 0.18).

    Raises:
        InputError: it is not a number from 0 to 2.
    """
    if not (math.isfinite(temperature) and 0 <= temperature <= HOTTEST):
        raise InputError(
            "no temperature", expected=f"a number from 0 to {HOTTEST}", got=f"{temperature}"
        )


def _question(turns: Sequence[Mapping[str, Any]]) -> bytes:
    anything = {"kind": "regex", "value": "(?s).*"}
    fields = {"id": "edge", "category": "edge", "messages": turns, "expectation": anything}
    return json.dumps(fields).encode()


def _read(line: bytes) -> str:
    with TemporaryDirectory(prefix="ingot-edge-") as folder:
        file = Path(folder) / "questions.jsonl"
        file.write_bytes(line)
        try:
            return load_questions(file)[0].messages[-1].content
        except QuestionsRefused as problem:
            # The file is gone in a moment; what is wrong in it is not.
            raise InputError(problem.message.replace(f"{file}, ", "")) from problem
