"""PromptTemplate is what the chat template renders, or null; templates are written from memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core.records import Message
from tasks.foundry.chat_template import renderer, renderer_of
from tasks.foundry.inference_model import prompt_template, write_inference_model

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN25 = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}{%- else %}"
    "{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role != 'system' or not loop.first %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# Newlines after the tags, without `-`: only trim_blocks keeps them out of the prompt.
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n"
    "{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
SYSTEM_IN_USER_TURN = (
    "{% set system = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for message in messages if message['role'] != 'system' %}{% if message['role'] == 'user' %}"
    "[INST] {{ system if loop.first else '' }}{{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }}</s>{% endif %}{% endfor %}"
)
NUMBERED_TURNS = (
    "{% for message in messages %}[{{ loop.index }}] {{ message['role'] }}: "
    "{{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
DATED = "Today is {{ strftime_now('%d %b %Y') }}.\n" + CHATML
OLD_TURNS_DROPPED = (
    "{% set last = messages | length - 1 %}"
    "{% for message in messages %}{% if message['role'] != 'assistant' or loop.index0 > last - 2 %}"
    "<{{ message['role'] }}>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def chat(*texts: str, system: str | None = None) -> list[Message]:
    turns = [
        Message(role="assistant" if place % 2 else "user", content=text)
        for place, text in enumerate(texts)
    ]
    return turns if system is None else [Message(role="system", content=system), *turns]


@pytest.mark.parametrize(
    "template", [CHATML, QWEN25, LLAMA3, PHI3, ZEPHYR], ids=["chatml", "qwen", "llama", "phi", "ze"]
)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_pieces_join_to_what_the_template_renders(template: str, system: str | None) -> None:
    render = renderer(template, SPECIAL)
    pieces = prompt_template(render)
    assert pieces is not None
    messages = chat("turn on", "which one?", "the kitchen", system=system)
    assert pieces.join(messages) == render(messages, generation=True)


def test_chatml_falls_apart_into_its_well_known_pieces() -> None:
    pieces = prompt_template(renderer(CHATML, {}))
    assert pieces is not None
    assert pieces.user == "<|im_start|>user\n{Content}<|im_end|>\n"
    assert pieces.prompt == pieces.user + "<|im_start|>assistant\n"


def test_what_opens_a_conversation_is_in_prompt_and_system_and_not_in_every_turn() -> None:
    pieces = prompt_template(renderer(LLAMA3, SPECIAL))
    assert pieces is not None
    assert pieces.prompt.startswith("<s>")
    assert (pieces.system or "").startswith("<s>")
    assert "<s>" not in pieces.user + pieces.assistant


def test_template_that_refuses_system_messages_has_no_system_piece() -> None:
    pieces = prompt_template(renderer(MISTRAL, SPECIAL))
    assert pieces is not None
    assert pieces.system is None
    assert pieces.prompt == "<s>[INST] {Content} [/INST]"


@pytest.mark.parametrize(
    "template",
    [SYSTEM_IN_USER_TURN, NUMBERED_TURNS, DATED, OLD_TURNS_DROPPED, "fixed text", "{{ broken"],
    ids=["system-in-user", "numbered", "dated", "dropped", "fixed", "syntax"],
)
def test_what_four_strings_cannot_say_is_left_out(template: str) -> None:
    assert prompt_template(renderer(template, SPECIAL)) is None


def write_folder(folder: Path, tokenizer_config: dict[str, object]) -> Path:
    search = {"max_length": 512, "temperature": 0.7, "top_p": 0.9, "num_beams": 1}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    (folder / "genai_config.json").write_text(json.dumps({"search": search}), encoding="utf-8")
    return folder


def test_file_names_version_template_and_sampling(tmp_path: Path) -> None:
    write_folder(tmp_path, {"chat_template": CHATML})
    write_inference_model(tmp_path, "home-int4-cpu:3")
    content = json.loads((tmp_path / "inference_model.json").read_text(encoding="utf-8"))
    assert (content["Name"], content["Version"]) == ("home-int4-cpu:3", "3")
    assert set(content["PromptTemplate"]) == {"system", "user", "assistant", "prompt"}
    assert content["ModelConfig"] == {"max_length": 512, "temperature": 0.7, "top_p": 0.9}


def test_folder_without_a_template_gets_null(tmp_path: Path) -> None:
    write_inference_model(write_folder(tmp_path, {}), "home-int4-cpu:1")
    content = json.loads((tmp_path / "inference_model.json").read_text(encoding="utf-8"))
    assert content["PromptTemplate"] is None


def test_template_in_the_tokenizer_config_beats_the_file_as_in_foundry_local(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path, {"chat_template": PHI3, "eos_token": {"content": "</s>"}})
    (tmp_path / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    render = renderer_of(tmp_path)
    assert render is not None
    assert render(chat("x"), generation=False) == "<|user|>\nx<|end|>\n"
