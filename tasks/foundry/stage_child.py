"""What examines a variant in Foundry Local: prompts against Hugging Face, answers against GenAI.

Counts differences; whether a difference matters is the policy's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from tasks.core.errors import InputError, ToolFailed
from tasks.core.progress import report_progress
from tasks.core.records import Measurement, Message, Question
from tasks.foundry.edge.texts import odd_texts
from tasks.foundry.greedy import GreedyModel
from tasks.foundry.parity_conversations import CONVERSATIONS
from tasks.foundry.runtime import FoundryRuntime, LoadedModel, foundry_runtime
from tasks.foundry.stage import MODEL_ID, Staged, StageRequest, plain_conversations

# Enough for a short answer; a longer one is cut at the same token on every side.
ANSWER_TOKENS = 96
TOKENS = "foundry.token_mismatches"
SESSION = "foundry.session_mismatches"
STREAM = "foundry.stream_mismatches"
HTTP = "foundry.http_mismatches"


@dataclass(frozen=True)
class Asked:
    """A question with the tokens its answer may have."""

    question: Question
    max_tokens: int


@dataclass(frozen=True)
class Heard:
    """The answers of one way into the model, or why there are none; `final`: nor ever will be."""

    texts: list[str]
    refusal: str = ""
    final: bool = False


@dataclass(frozen=True)
class Findings:
    """What Foundry Local said: token counts by conversation, answers by way in."""

    counts: dict[str, int | str]
    asked: list[Asked]
    answers: dict[str, Heard]


def examine(request: StageRequest) -> Staged:
    """Examine one variant in the empty index of the request.

    Only what the model folder causes becomes evidence without values; faults of the runtime's own
    start, of its web service and of this machine are raised, see `tasks/foundry/faults.py`.
    """
    conversations = _conversations(request.questions)
    try:
        with foundry_runtime(request.index, request.index / "app") as runtime:
            findings = _ask_foundry(runtime, request, conversations)
    except (InputError, ToolFailed) as problem:
        return _nothing_measured(str(problem))
    greedy = _ask_greedy(request.folder, findings.asked)
    right, odd = _count_with_tokenizer(request, conversations)
    tokens, notes = _compare_counts(findings.counts, right)
    answers = findings.answers
    compared = {
        SESSION: _compare(answers[SESSION], greedy, "ChatSession", "ONNX Runtime GenAI, greedy"),
        STREAM: _compare(answers[STREAM], answers[SESSION], "streamed", "in one piece"),
        HTTP: _compare(answers[HTTP], greedy, "web service", "ONNX Runtime GenAI, greedy"),
    }
    notes += [f"{name}: {found.method}" for name, found in compared.items() if found.value is None]
    metrics = {TOKENS: tokens, **compared}
    return Staged(metrics=metrics, notes=notes, answers=not answers[HTTP].refusal, odd_tokens=odd)


def _conversations(questions: Sequence[Question]) -> dict[str, list[Message]]:
    asked = {f"question {question.id}": question.messages for question in questions}
    return {**CONVERSATIONS, **asked}


def _nothing_measured(reason: str) -> Staged:
    nothing = Measurement(value=None, n=0, method=reason)
    metrics = dict.fromkeys((TOKENS, SESSION, STREAM, HTTP), nothing)
    return Staged(metrics=metrics, notes=[reason], answers=False, odd_tokens={})


# ---------------------------------------------------------------- Foundry Local


def _ask_foundry(
    runtime: FoundryRuntime, request: StageRequest, conversations: dict[str, list[Message]]
) -> Findings:
    report_progress("loading in Foundry Local")
    runtime.register(MODEL_ID, request.folder, {})
    with runtime.loaded(MODEL_ID) as model:
        report_progress(f"counting the tokens of {len(conversations)} conversations")
        counts = {name: _count(model, chat) for name, chat in conversations.items()}
        report_progress(f"asking {len(request.questions)} questions")
        asked, refused = _budget(model, request.questions)
        session = _hear(lambda one: _in_session(model, one), asked, refused)
        answers = {
            SESSION: session,
            STREAM: _hear(lambda one: _streamed(model, one), asked, refused),
            # Not asked what a session refuses: the service says 500 then, as when it is broken.
            HTTP: _hear_http(runtime, asked, session if session.refusal else None),
        }
    return Findings(counts, asked, answers)


def _count(model: LoadedModel, messages: list[Message]) -> int | str:
    try:
        return model.prompt_tokens(messages)
    except (InputError, ToolFailed) as problem:
        return str(problem)


def _budget(model: LoadedModel, questions: Sequence[Question]) -> tuple[list[Asked], Heard | None]:
    """Leave out what does not fit: prompt and answer together must stay inside the context.

    With nothing left to ask: what every way into the model then gives.
    """
    try:
        rooms = [(question, model.token_room(question.messages)) for question in questions]
    except (InputError, ToolFailed) as problem:
        return [], Heard([], str(problem))
    fitting = [Asked(each, min(ANSWER_TOKENS, room)) for each, room in rooms if room > 0]
    nothing = "no question with text in every message fits in the context"
    return fitting, None if fitting else Heard([], nothing, final=True)


def _hear(ask: Callable[[Asked], str], asked: list[Asked], refused: Heard | None) -> Heard:
    if refused:
        return refused
    try:
        return Heard([ask(one) for one in asked])
    except (InputError, ToolFailed) as problem:
        return Heard([], str(problem))


def _in_session(model: LoadedModel, one: Asked) -> str:
    return model.ask(one.question.messages, max_tokens=one.max_tokens).text


def _streamed(model: LoadedModel, one: Asked) -> str:
    return "".join(model.stream(one.question.messages, max_tokens=one.max_tokens))


def _hear_http(runtime: FoundryRuntime, asked: list[Asked], refused: Heard | None) -> Heard:
    if refused:
        return refused
    with runtime.serving() as endpoint:
        if MODEL_ID not in (ids := endpoint.model_ids()):
            return Heard([], f"the web service does not list {MODEL_ID}, but {ids}")
        return _hear(
            lambda one: endpoint.ask(MODEL_ID, one.question.messages, max_tokens=one.max_tokens),
            asked,
            None,
        )


# ---------------------------------------------------------------- what it must equal


def _ask_greedy(folder: Path, asked: list[Asked]) -> Heard:
    report_progress("asking ONNX Runtime GenAI the same")
    try:
        model = GreedyModel(folder)
        return Heard(
            [model.answer(one.question.messages, max_tokens=one.max_tokens) for one in asked]
        )
    except ToolFailed as problem:
        return Heard([], str(problem))


def _count_with_tokenizer(
    request: StageRequest, conversations: dict[str, list[Message]]
) -> tuple[dict[str, int | str], dict[str, int]]:
    """Count the tokens of the conversations, and of those that the edge cases ask."""
    report_progress("counting with the checkpoint's tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(request.checkpoint, local_files_only=True)
    counted = {name: _tokens(tokenizer, chat) for name, chat in conversations.items()}
    *before, _ = plain_conversations(request.questions)[0]
    odd = {
        name: _tokens(tokenizer, [*before, Message(role="user", content=text)])
        for name, text in odd_texts(request.folder).items()
    }
    return counted, {name: count for name, count in odd.items() if isinstance(count, int)}


def _tokens(tokenizer: Any, messages: list[Message]) -> int | str:
    turns = [message.model_dump() for message in messages]
    try:
        tokens = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except (TemplateError, ValueError) as problem:  # ValueError: there is no template at all
        return str(problem)
    return len(tokens)


def _compare_counts(
    heard: dict[str, int | str], right: dict[str, int | str]
) -> tuple[Measurement, list[str]]:
    """Count the conversations that differ; one that both refuse does not."""
    notes = [
        f"{name}: {heard[name]} tokens in Foundry Local, {right[name]} in Hugging Face"
        for name in right
        if heard[name] != right[name] and not (_refused(heard[name]) and _refused(right[name]))
    ]
    counted = sum(not _refused(count) for count in right.values())
    if not counted:
        reason = f"the checkpoint's own template renders nothing: {next(iter(right.values()))}"
        return Measurement(value=None, n=0, method=reason, final=True), [reason]
    method = (
        "numbers of tokens, preflight of Foundry Local against apply_chat_template of the "
        "checkpoint; not the texts, Foundry Local shows no rendered prompt"
    )
    return Measurement(value=len(notes), n=len(right), method=method), notes


def _refused(count: int | str) -> bool:
    return isinstance(count, str)


def _compare(heard: Heard, expected: Heard, who: str, against: str) -> Measurement:
    for one in (heard, expected):
        if one.refusal:
            return Measurement(value=None, n=0, method=one.refusal, final=one.final)
    pairs = list(zip(heard.texts, expected.texts, strict=True))
    differing = sum(text != other for text, other in pairs)
    return Measurement(value=differing, n=len(pairs), method=f"{who} against {against}")
