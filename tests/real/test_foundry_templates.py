"""Ingot's own rendering of chat templates equals transformers', template by template."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.records import Message
from tasks.foundry.chat_template import renderer, renderer_of
from tasks.foundry.parity_conversations import CONVERSATIONS
from tests.foundry_variants import tiny_checkpoint

pytestmark = pytest.mark.real

TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "newlines after tags": "{% for m in messages %}\n{% if m.role == 'user' %}\n"
    "{{ '<|user|>\n' + m.content + eos_token }}\n{% else %}\n"
    "{{ '<|other|>\n' + m.content + eos_token }}\n{% endif %}\n{% endfor %}\n"
    "{% if add_generation_prompt %}\n<|assistant|>\n{% endif %}",
    "tojson, namespace, break": "{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% set ns.n = ns.n + 1 %}{{ m | tojson }}{% if ns.n > 4 %}{% break %}{% endif %}"
    "{% endfor %}{{ ns.n }}",
    "generation block": "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}",
    "date": "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content | trim }}"
    "{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_rendering_equals_transformers(template: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint())
    render = renderer(template, {"eos_token": tokenizer.eos_token})
    for messages in CONVERSATIONS.values():
        expected = tokenizer.apply_chat_template(
            [message.model_dump() for message in messages],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
        assert render(messages, generation=True) == expected


def test_template_is_found_where_transformers_puts_it() -> None:
    from transformers import AutoTokenizer

    folder: Path = tiny_checkpoint()
    render = renderer_of(folder)
    assert render is not None
    messages = [Message(role="user", content="x")]
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "x"}], add_generation_prompt=True, tokenize=False
    )
    assert render(messages, generation=True) == expected
