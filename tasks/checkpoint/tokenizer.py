"""Tokenizer, chat template and generation defaults: there, readable, inside the vocabulary.

Reads the files as data and parses the template as Jinja; renders and tokenises nothing.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from tasks.checkpoint.architecture import Architecture, refuse_own_code
from tasks.checkpoint.folder import CheckpointFolder
from tasks.checkpoint.json_file import (
    MIB,
    TOKENIZER_LIMIT_BYTES,
    read_bounded,
    read_json_object,
)
from tasks.core.errors import CheckpointIncomplete, CheckpointRefused

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
TEMPLATE = "chat_template.jinja"
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")

_SAVE_FAST = (
    "save it with `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`, "
    "or copy the file from the base model's checkpoint"
)
_SET_TEMPLATE = (
    "set `tokenizer.chat_template` to the template that training used and call "
    "`save_pretrained`, or copy chat_template.jinja from the base model's checkpoint"
)


def check_tokenizer(folder: CheckpointFolder, architecture: Architecture) -> None:
    """Require a fast tokenizer whose token ids all have a row in the embedding.

    Raises:
        CheckpointRefused: a file is missing or unreadable, or an id is too large.
    """
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        if name not in folder.files:
            raise CheckpointIncomplete(
                f"{folder.path} has no {name}",
                expected="tokenizer.json and tokenizer_config.json: Foundry Local needs both",
                next_step=_SAVE_FAST,
            )
    refuse_own_code(folder.files[TOKENIZER_CONFIG], _tokenizer_config(folder))
    path = folder.files[TOKENIZER]
    largest = _largest_id(path)
    if largest >= architecture.vocab_size:
        raise CheckpointRefused(
            f"{path} has tokens beyond the model's vocabulary",
            expected=f"ids below {architecture.vocab_size}, the vocab_size of config.json",
            got=f"id {largest}",
            next_step="call `model.resize_token_embeddings(len(tokenizer))` before training, or "
            "put the tokenizer there that the model was trained with",
        )


def find_chat_template(folder: CheckpointFolder) -> str:
    """Give the name of the file that holds the chat template, once the template parses.

    Raises:
        CheckpointRefused: there is none, it is not valid Jinja, or two files disagree.
    """
    inline = _inline_template(folder)
    separate = _separate_template(folder)
    if inline is None and separate is None:
        raise CheckpointIncomplete(
            f"{folder.path} has no chat template",
            expected=f"{TEMPLATE}, or chat_template in {TOKENIZER_CONFIG}",
            next_step=_SET_TEMPLATE,
        )
    if inline is not None and separate is not None and inline != separate:
        # transformers 5.23 takes the separate file, Foundry Local 2.2.1 the other (measured).
        raise CheckpointRefused(
            f"{folder.path} has two different chat templates, in {TEMPLATE} and in "
            f"{TOKENIZER_CONFIG}",
            expected="one: training and serving would each take another",
            next_step="remove the one that training did not use",
        )
    file = TEMPLATE if separate is not None else TOKENIZER_CONFIG
    _parse_template(folder.files[file], separate if separate is not None else inline or "")
    return file


def read_generation_defaults(
    folder: CheckpointFolder, architecture: Architecture
) -> tuple[list[int], dict[str, float]]:
    """Give the end-of-sequence token ids and the sampling defaults.

    The ids are generation_config.json's, else config.json's; the defaults are empty without
    generation_config.json.

    Raises:
        CheckpointRefused: no ids, an id outside the vocabulary, or a default that is no number.
    """
    fields: dict[str, Any] = {}
    if GENERATION_CONFIG in folder.files:
        fields = read_json_object(folder.files[GENERATION_CONFIG])
    else:
        log.warning("%s has no %s: answers may not stop", folder.path, GENERATION_CONFIG)
    eos = _eos_token_ids(folder, fields.get("eos_token_id"), architecture)
    sampling = {key: fields[key] for key in SAMPLING if fields.get(key) is not None}
    for key, value in sampling.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise CheckpointRefused(
                f"{folder.files[GENERATION_CONFIG]}: {key} is no number",
                got=str(value)[:200],
                next_step=f"write a number, or remove {key}",
            )
    return eos, {key: float(value) for key, value in sampling.items()}


def _eos_token_ids(
    folder: CheckpointFolder, given: object, architecture: Architecture
) -> list[int]:
    if given is None:
        given = architecture.eos_token_id
    ids = given if isinstance(given, list) else [] if given is None else [given]
    if not ids:
        raise CheckpointRefused(
            f"{folder.path} names no end-of-sequence token: no answer would ever end",
            expected=f"eos_token_id in {GENERATION_CONFIG} or config.json",
            next_step="add the id of the token that ends a turn in the chat template",
        )
    for item in ids:
        if type(item) is not int or not 0 <= item < architecture.vocab_size:
            raise CheckpointRefused(
                f"{folder.path}: eos_token_id {item!r} is no token of the model",
                expected=f"an id from 0 to {architecture.vocab_size - 1}",
                next_step=f"write the right id into {GENERATION_CONFIG}",
            )
    return list(dict.fromkeys(ids))


def _tokenizer_config(folder: CheckpointFolder) -> dict[str, Any]:
    return read_json_object(folder.files[TOKENIZER_CONFIG])


def _largest_id(path: Path) -> int:
    """Give the largest token id in tokenizer.json, added tokens included."""
    fields = read_json_object(path, limit_bytes=TOKENIZER_LIMIT_BYTES)
    model = fields.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = fields.get("added_tokens") or []
    try:
        # Unigram models number their tokens by position, the others name the id.
        own = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary or []))
        return max(int(item) for item in [*own, *(token["id"] for token in added)])
    except (ValueError, TypeError, KeyError) as problem:
        raise CheckpointRefused(
            f"{path} holds no vocabulary",
            expected="a file of the tokenizers library, with model.vocab and added_tokens",
            next_step=_SAVE_FAST,
        ) from problem


def _separate_template(folder: CheckpointFolder) -> str | None:
    if TEMPLATE not in folder.files:
        return None
    path = folder.files[TEMPLATE]
    try:
        return read_bounded(path, MIB).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise CheckpointRefused(f"{path} is not UTF-8", next_step=_SET_TEMPLATE) from problem


def _inline_template(folder: CheckpointFolder) -> str | None:
    """Give the template in tokenizer_config.json: a string, or the one named `default`."""
    given = _tokenizer_config(folder).get("chat_template")
    if isinstance(given, list):
        named = {item.get("name"): item.get("template") for item in given if isinstance(item, dict)}
        given = named.get("default", "")
    if given is None or (isinstance(given, str) and given):
        return given
    raise CheckpointRefused(
        f"{folder.files[TOKENIZER_CONFIG]}: chat_template is empty",
        expected="a template, or named templates among which one is called default",
        next_step=_SET_TEMPLATE,
    )


def _parse_template(path: Path, template: str) -> None:
    """Parse, never render: a template is code of whoever made the checkpoint."""
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """`{% generation %}`, which transformers adds to mark what the model is trained on."""

        tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(extensions=[GenerationTag, loopcontrols])
    try:
        environment.parse(template)
    except TemplateSyntaxError as problem:
        raise CheckpointRefused(
            f"the chat template in {path} is not valid Jinja: line {problem.lineno}: "
            f"{problem.message}",
            next_step=_SET_TEMPLATE,
        ) from problem
    if "add_generation_prompt" not in template:
        log.warning("the chat template in %s never asks for an answer", path)
