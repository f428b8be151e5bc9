"""Proof that a registered model is there and answers as ONNX Runtime GenAI does on its files.

`register_model` succeeding proves nothing: it looks at no weights. Whether an answer is right is
not known here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tasks.core.errors import InputError, ToolFailed
from tasks.core.progress import report_progress
from tasks.core.records import Message
from tasks.foundry.greedy import GreedyModel
from tasks.foundry.runtime import FoundryRuntime, LoadedModel

log = logging.getLogger(__name__)

ANSWER_TOKENS = 256


def prove(runtime: FoundryRuntime, model_id: str, messages: Sequence[Message]) -> str:
    """Give a registered model's answer, once it is known to equal GenAI's on the same files.

    Raises:
        ToolFailed: it is not listed, does not load, or answers otherwise.
        InputError: the conversation leaves no room for an answer.
    """
    report_progress(f"asking {model_id}")
    entry = runtime.find(model_id)
    if entry is None or model_id not in runtime.listed_ids():
        raise ToolFailed(f"Foundry Local does not list {model_id}")
    with runtime.loaded(model_id) as model:
        limit = _answer_limit(model, messages)
        answer = model.ask(messages, max_tokens=limit).text
    expected = GreedyModel(entry.folder).answer(messages, max_tokens=limit)
    require_equal(f"{model_id} in Foundry Local", answer, expected)
    return answer


def prove_over_http(
    runtime: FoundryRuntime, model_id: str, messages: Sequence[Message], answer: str
) -> None:
    """Have the web service list a model and give the same answer.

    Raises:
        ToolFailed: it does not.
    """
    report_progress(f"asking {model_id} over HTTP")
    with runtime.loaded(model_id) as model, runtime.serving() as endpoint:
        if model_id not in (ids := endpoint.model_ids()):
            raise ToolFailed(f"the web service does not list {model_id}", got=", ".join(ids))
        if not all(message.content for message in messages):
            log.info("not asked over HTTP: the web service drops messages without text (2.2.1)")
            return
        heard = endpoint.ask(model_id, messages, max_tokens=_answer_limit(model, messages))
    require_equal(f"{model_id} over HTTP", heard, answer)


def require_newest(runtime: FoundryRuntime, model_id: str) -> None:
    """Refuse when the alias means another version.

    Raises:
        ToolFailed: it does.
    """
    alias, _, version = model_id.rpartition(":")
    newest = max(runtime.versions(alias), default=None)
    if newest != int(version):
        raise ToolFailed(f"{alias} means version {newest}", expected=version)


def require_equal(who: str, answer: str, expected: str) -> None:
    """Refuse an answer that is not the expected one.

    Raises:
        ToolFailed: it is not.
    """
    if answer != expected:
        raise ToolFailed(
            f"{who} answers unlike ONNX Runtime GenAI on the same files",
            expected=repr(expected),
            got=repr(answer),
        )


def _answer_limit(model: LoadedModel, messages: Sequence[Message]) -> int:
    room = model.token_room(messages)
    if room < 1:
        raise InputError(
            "the question is longer than the model's context",
            got=f"{-room} tokens too many, and none left for the answer",
            next_step="give a shorter question",
        )
    return min(ANSWER_TOKENS, room)
