"""The genai_config.json that the builder writes: corrected from the checkpoint, then read back.

Changes values of keys that are there and adds none, because one key that the runtime does not
know is fatal at load ("Unknown value"). Of Hugging Face's sampling defaults 0.18 knows do_sample,
temperature, top_k, top_p and repetition_penalty; min_p and typical_p are fatal (measured, 2026-11).
How a model decodes belongs to `probe.py`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from tasks.core.errors import VariantUnusable
from tasks.core.records import Checkpoint, Record

log = logging.getLogger(__name__)

GENAI_CONFIG = "genai_config.json"

# The KV cache is allocated for max_length, not for what is used: the builder's default, the whole
# context, costs 767 MB more at the first answer of a 0.5 B model with 32,768 (2026-11).
MAX_LENGTH = 4096

# With Hugging Face's defaults. The builder drops repetition_penalty (1.05 becomes 1.0, 0.18).
_SEARCH_DEFAULTS: dict[str, bool | int | float] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
}


# Defaults that Hugging Face knows and the runtime does not, with the value that does nothing.
_NO_PLACE = {"min_p": 0.0, "typical_p": 1.0}


class GenaiSettings(Record):
    """What genai_config.json must say, whatever the builder made of it.

    Attributes:
        context_length: tokens that prompt and answer may have together.
        eos_token_id: every token that ends an answer.
        search: sampling defaults and `max_length`.
    """

    context_length: int
    eos_token_id: list[int]
    search: dict[str, bool | int | float]


class GenaiFacts(Record):
    """What was read back from a finished genai_config.json."""

    context_length: int
    eos_token_ids: list[int]


def read_settings(checkpoint: Path) -> GenaiSettings:
    """Take the settings from a Hugging Face folder's config.json and generation_config.json."""
    config = _read_json(checkpoint / "config.json")
    text_config = {**config, **config.get("text_config", {})}
    generation_file = checkpoint / "generation_config.json"
    generation = _read_json(generation_file) if generation_file.exists() else {}
    context_length = int(text_config["max_position_embeddings"])
    eos = generation.get("eos_token_id")
    if eos is None:
        eos = text_config.get("eos_token_id")
    given = {key: generation[key] for key in _SEARCH_DEFAULTS if generation.get(key) is not None}
    return GenaiSettings(
        context_length=context_length,
        eos_token_id=list(eos) if isinstance(eos, list) else [] if eos is None else [eos],
        search={
            **_SEARCH_DEFAULTS,
            **given,
            "max_length": min(context_length, MAX_LENGTH),
        },
    )


def settings_for(checkpoint: Checkpoint) -> GenaiSettings:
    """Take the settings of an admitted checkpoint; its own record wins over the files."""
    context_length = checkpoint.context_length
    read = read_settings(checkpoint.path)
    return GenaiSettings(
        context_length=context_length,
        eos_token_id=checkpoint.eos_token_ids,
        search={**read.search, "max_length": min(context_length, MAX_LENGTH)},
    )


def dropped_sampling(checkpoint: Checkpoint) -> str:
    """Name the sampling defaults of a checkpoint that the runtime cannot be given, as `key=value`.

    Empty when there are none, or only such as do nothing.
    """
    return ", ".join(
        f"{key}={checkpoint.sampling[key]:g}"
        for key, neutral in _NO_PLACE.items()
        if checkpoint.sampling.get(key, neutral) != neutral
    )


def adjust_genai_config(folder: Path, settings: GenaiSettings) -> None:
    """Write the settings into a built folder's genai_config.json, and make it a CPU one.

    Raises:
        VariantUnusable: the graph's rotary cache is shorter than the context, or a sampling
            default has no place in this builder's file.
    """
    file = folder / GENAI_CONFIG
    whole = _read_json(file)
    model, search = whole["model"], whole["search"]
    if settings.context_length > model["context_length"]:
        raise VariantUnusable(
            f"{file.name}: the graph was built for a shorter context than the checkpoint has",
            expected=f"{settings.context_length} tokens",
            got=f"{model['context_length']}",
        )
    if unknown := sorted(set(settings.search) - set(search)):
        raise VariantUnusable(
            f"{file.name}: the builder writes no {', '.join(unknown)}, and new keys are fatal",
            next_step="use the pinned onnxruntime-genai",
        )
    model["context_length"] = settings.context_length
    if settings.eos_token_id:
        model["eos_token_id"] = settings.eos_token_id
    _make_special_tokens_valid(model)
    model["decoder"]["session_options"]["provider_options"] = []
    search.update(settings.search)
    file.write_text(json.dumps(whole, indent=4) + "\n", encoding="utf-8", newline="\n")


def _make_special_tokens_valid(model: dict[str, Any]) -> None:
    """Point bos and pad at a token that exists; the builder guesses when the checkpoint is mute."""
    first_end = _as_list(model["eos_token_id"])[0]
    for key in ("pad_token_id", "bos_token_id"):
        if not _is_token(model.get(key), model["vocab_size"]):
            log.warning("%s %r is not a token; using %d", key, model.get(key), first_end)
            model[key] = first_end


def verify_genai_config(folder: Path, checkpoint: Checkpoint) -> GenaiFacts:
    """Compare a finished genai_config.json with the checkpoint that it was built from.

    Foundry Local checks none of this: a model with the wrong number of layers or heads registers,
    loads and runs there.

    Raises:
        VariantUnusable: they contradict each other.
    """
    whole = _read_json(folder / GENAI_CONFIG)
    model, decoder = whole["model"], whole["model"]["decoder"]
    eos = _as_list(model["eos_token_id"])
    pairs = {
        "model.context_length": (model["context_length"], checkpoint.context_length),
        "model.vocab_size": (model["vocab_size"], checkpoint.vocabulary_size),
        "model.eos_token_id": (sorted(eos), sorted(set(checkpoint.eos_token_ids))),
        "decoder.num_hidden_layers": (decoder["num_hidden_layers"], checkpoint.layers),
        "decoder.num_attention_heads": (
            decoder["num_attention_heads"],
            checkpoint.attention_heads,
        ),
        "decoder.num_key_value_heads": (decoder["num_key_value_heads"], checkpoint.kv_heads),
        "decoder.head_size": (decoder["head_size"], checkpoint.head_size),
        "decoder.hidden_size": (decoder["hidden_size"], checkpoint.hidden_size),
        "decoder.session_options.provider_options": (
            decoder["session_options"]["provider_options"],
            [],
        ),
        **_search_pairs(whole["search"], checkpoint),
    }
    for key, (got, expected) in pairs.items():
        if got != expected:
            raise VariantUnusable(
                f"{GENAI_CONFIG}: {key} contradicts the checkpoint",
                expected=str(expected),
                got=str(got),
            )
    _require_tokens([*eos, model["bos_token_id"], model["pad_token_id"]], model["vocab_size"])
    return GenaiFacts(context_length=model["context_length"], eos_token_ids=eos)


def _search_pairs(
    search: dict[str, Any], checkpoint: Checkpoint
) -> dict[str, tuple[object, object]]:
    """Put what is there beside what admission read; only do_sample, no number, is read again."""
    numbers = {
        key: checkpoint.sampling.get(key, default) for key, default in _SEARCH_DEFAULTS.items()
    }
    settings = settings_for(checkpoint).search
    expected = {**numbers, **{key: settings[key] for key in ("do_sample", "max_length")}}
    return {f"search.{key}": (search.get(key), value) for key, value in expected.items()}


def _require_tokens(tokens: list[Any], vocabulary_size: int) -> None:
    for token in tokens:
        if not _is_token(token, vocabulary_size):
            raise VariantUnusable(
                f"{GENAI_CONFIG}: {token!r} is named as a special token but is not a token",
                expected=f"a number from 0 to {vocabulary_size - 1}",
            )


def _is_token(value: object, vocabulary_size: int) -> bool:
    return isinstance(value, int) and 0 <= value < vocabulary_size


def _as_list(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]


def _read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
