"""The chat template of a model folder, rendered as transformers renders it.

Written against jinja2 alone, because importing transformers takes two seconds; the tests hold the
two against each other. What the text is used for is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, Protocol

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.core.records import Message

DAYS_APART = 400
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class Render(Protocol):
    """Renders a conversation with one chat template."""

    def __call__(
        self, messages: Sequence[Message], *, generation: bool, days_ahead: int = 0
    ) -> str:
        """Give the text; raises jinja2's TemplateError when the template refuses it.

        Args:
            messages: the conversation.
            generation: end with what makes the assistant begin.
            days_ahead: render as if it were that many days later.
        """


def renderer_of(folder: Path) -> Render | None:
    """Give the renderer of a model folder's chat template, or None when it has none.

    Where two files hold one, tokenizer_config.json wins, as it does in Foundry Local.
    """
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = config.get("chat_template")
    file = folder / "chat_template.jinja"
    if template is None and file.is_file():
        template = file.read_text(encoding="utf-8")
    return renderer(template, _special_tokens(config)) if isinstance(template, str) else None


def renderer(template: str, special_tokens: dict[str, str]) -> Render:
    """Give the renderer of a template; the special tokens are variables in it."""

    def render(messages: Sequence[Message], *, generation: bool, days_ahead: int = 0) -> str:
        environment = _environment(datetime.now().astimezone() + timedelta(days=days_ahead))
        return environment.from_string(template).render(
            messages=[message.model_dump() for message in messages],
            add_generation_prompt=generation,
            **special_tokens,
        )

    return render


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in _SPECIAL_TOKENS:
        token = config.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            found[key] = text
    return found


def _environment(now: datetime) -> ImmutableSandboxedEnvironment:
    # Trim and strip are transformers' settings; without them templates render extra newlines.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = now.strftime
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}` marks what to train on; for rendering it is as if it were not there."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

    def parse(self, parser: Parser) -> list[Node]:
        """Give the statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
