"""What config.json says the model is, and whether the tensors agree with it.

Reads numbers and names; opens no weights and knows nothing of tokenizers.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from tasks.checkpoint.families import FAMILIES, Family
from tasks.checkpoint.folder import CheckpointFolder
from tasks.checkpoint.json_file import read_json_object
from tasks.checkpoint.safetensors_header import TensorEntry
from tasks.core.errors import CheckpointIncomplete, CheckpointRefused

log = logging.getLogger(__name__)

CONFIG = "config.json"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
_SAVE_AGAIN = "save config and weights together, with `save_pretrained` of the trained model"
_NOT_TEXT = ("vision_config", "audio_config", "text_config", "speech_config", "encoder")


class Architecture(BaseModel):
    """The keys of config.json that Ingot relies on; names are Hugging Face's."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    model_type: str = Field(min_length=1)
    architectures: list[str] = Field(min_length=1)
    hidden_size: PositiveInt
    intermediate_size: PositiveInt | None = None
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    tie_word_embeddings: bool | None = None
    eos_token_id: int | list[int] | None = None

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads; the attention heads' where not given."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def family(self) -> Family | None:
        """The family's row of data, or None for a family without one."""
        return FAMILIES.get(self.model_type)

    def is_tied(self, tensors: dict[str, TensorEntry]) -> bool:
        """Tell whether the language head is the embedding, by config, family or tensor names."""
        if self.tie_word_embeddings is not None:
            return self.tie_word_embeddings
        return self.family.tied_by_default if self.family else HEAD not in tensors


def read_architecture(folder: CheckpointFolder) -> Architecture:
    """Read config.json and refuse what cannot be released at all.

    Raises:
        CheckpointRefused: missing or unreadable, a key missing or of the wrong type, own code,
            already quantised, or not a text decoder.
    """
    if CONFIG not in folder.files:
        raise CheckpointIncomplete(
            f"{folder.path} has no {CONFIG}",
            expected="a checkpoint folder as `save_pretrained` writes it",
            next_step="give the folder that holds config.json, or copy the file from the base "
            "model's checkpoint",
        )
    path = folder.files[CONFIG]
    fields = read_json_object(path)
    refuse_own_code(path, fields)
    _refuse_quantised(path, fields)
    _refuse_not_text_decoder(path, fields)
    try:
        architecture = Architecture.model_validate(fields)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointRefused(
            f"{path}: {key}: {first['msg']}",
            next_step=f"write the right {key} into config.json; the base model's has it",
        ) from problem
    _refuse_impossible_heads(path, architecture)
    return architecture


def refuse_own_code(path: Path, fields: dict[str, Any]) -> None:
    """Refuse a configuration that names Python code to load."""
    if fields.get("auto_map"):
        raise CheckpointRefused(
            f"{path} has auto_map: the model wants to run its own code",
            expected="an architecture that transformers has built in",
            next_step="if transformers has this architecture built in by now, save the checkpoint "
            "again without `trust_remote_code`; else it is not supported",
        )


def compare_tensors(
    path: Path, architecture: Architecture, tensors: dict[str, TensorEntry]
) -> None:
    """Hold the tensors' names and shapes against config.json.

    Families without a row in `families.py` have only the embedding and head compared.

    Raises:
        CheckpointRefused: a tensor is missing or has another shape, or layers too many.
    """
    _refuse_unmerged_adapter(path, tensors)
    tied = architecture.is_tied(tensors)
    family = architecture.family
    required = [] if family is None else _required(architecture, family)
    for name in [*required, *([] if tied else [HEAD])]:
        if name not in tensors:
            raise _contradiction(
                path, f"there is no tensor {name}", "every tensor that the model needs", "none"
            )
    if family is None:
        log.warning(
            "family %s is not known: only its embedding is compared with %s",
            architecture.model_type,
            path,
        )
    else:
        _compare_layers(path, architecture, tensors)
    _compare_shapes(path, architecture, tensors)


def _refuse_unmerged_adapter(path: Path, tensors: dict[str, TensorEntry]) -> None:
    for name in tensors:
        if ".lora_" in name or ".base_layer." in name:
            raise CheckpointRefused(
                f"the weights beside {path} hold an adapter that is not merged: {name}",
                expected="merged weights: loaders drop the adapter's tensors with a warning",
                next_step="save the result of peft's `model.merge_and_unload()` instead",
            )


def _required(architecture: Architecture, family: Family) -> list[str]:
    outside = [EMBEDDING] + (["model.norm.weight"] if family.has_final_norm else [])
    layers = range(architecture.num_hidden_layers)
    return outside + [
        f"model.layers.{layer}.{suffix}" for layer in layers for suffix in family.layer_tensors
    ]


def _compare_layers(
    path: Path, architecture: Architecture, tensors: dict[str, TensorEntry]
) -> None:
    """Require as many layers as promised, all with the same tensors (such as optional biases)."""
    suffixes: dict[int, set[str]] = {}
    for name in tensors:
        if found := _LAYER.match(name):
            suffixes.setdefault(int(found[1]), set()).add(found[2])
    layers = architecture.num_hidden_layers
    if len(suffixes) != layers:
        raise _contradiction(path, "num_hidden_layers", str(layers), f"{len(suffixes)} layers")
    for layer, found_suffixes in sorted(suffixes.items()):
        if odd := found_suffixes ^ suffixes[min(suffixes)]:
            raise _contradiction(
                path,
                f"layer {layer} differs from the first",
                "the same tensors in every layer",
                f"{min(odd)} in one of the two only",
            )


def _compare_shapes(
    path: Path, architecture: Architecture, tensors: dict[str, TensorEntry]
) -> None:
    shapes = _shapes(architecture)
    outside = {EMBEDDING, HEAD}
    for name, tensor in tensors.items():
        layer = _LAYER.match(name) if architecture.family else None
        suffix = layer[2] if layer else name
        if suffix in shapes and (layer or name in outside):
            key, expected = shapes[suffix]
            if tensor.shape != expected:
                raise _contradiction(
                    path, f"tensor {name}", f"shape {expected} by {key}", f"shape {tensor.shape}"
                )
            if not tensor.dtype.startswith(("F", "BF")):
                raise _contradiction(path, f"tensor {name}", "floating-point", tensor.dtype)


def _shapes(architecture: Architecture) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Give the shape that each tensor must have, and the keys of config.json that say so."""
    hidden, inner = architecture.hidden_size, architecture.intermediate_size
    head = architecture.head_size
    query, key_value = architecture.num_attention_heads * head, architecture.kv_heads * head
    table = (architecture.vocab_size, hidden)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        EMBEDDING: ("vocab_size and hidden_size", table),
        HEAD: ("vocab_size and hidden_size", table),
        "self_attn.q_proj.weight": ("num_attention_heads and head_dim", (query, hidden)),
        "self_attn.k_proj.weight": ("num_key_value_heads and head_dim", (key_value, hidden)),
        "self_attn.v_proj.weight": ("num_key_value_heads and head_dim", (key_value, hidden)),
        "self_attn.o_proj.weight": ("num_attention_heads and head_dim", (hidden, query)),
        "self_attn.qkv_proj.weight": ("the numbers of heads", (query + 2 * key_value, hidden)),
        "self_attn.q_norm.weight": ("head_dim", (head,)),
        "self_attn.k_norm.weight": ("head_dim", (head,)),
        "input_layernorm.weight": ("hidden_size", (hidden,)),
        "post_attention_layernorm.weight": ("hidden_size", (hidden,)),
    }
    if inner is not None:
        source = "intermediate_size and hidden_size"
        shapes |= {
            "mlp.gate_proj.weight": (source, (inner, hidden)),
            "mlp.up_proj.weight": (source, (inner, hidden)),
            "mlp.gate_up_proj.weight": (source, (2 * inner, hidden)),
            "mlp.down_proj.weight": (source, (hidden, inner)),
        }
    return shapes


def _refuse_quantised(path: Path, fields: dict[str, Any]) -> None:
    for key in ("quantization_config", "compression_config"):
        if fields.get(key):
            raise CheckpointRefused(
                f"{path} has {key}: the checkpoint is quantised already",
                expected="the full-precision checkpoint, from which Ingot makes the variants",
                next_step="release the checkpoint from before quantisation; if training used "
                "quantised weights (QLoRA), merge the adapter into the full-precision base model",
            )


def _refuse_not_text_decoder(path: Path, fields: dict[str, Any]) -> None:
    names = fields.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    other = [key for key in _NOT_TEXT if isinstance(fields.get(key), dict)]
    if fields.get("is_encoder_decoder") is True:
        other.append("is_encoder_decoder")
    # A missing or malformed `architectures` is named by the validation that follows.
    is_decoder = not isinstance(first, str) or first.endswith("ForCausalLM")
    if other or not is_decoder:
        raise CheckpointRefused(
            f"{path} describes {first}" + (f" with {', '.join(other)}" if other else ""),
            expected="a text decoder, an architecture whose name ends in ForCausalLM",
            next_step="give a text-only language model; of a multimodal one, save the language "
            "model alone",
        )


def _refuse_impossible_heads(path: Path, architecture: Architecture) -> None:
    heads, hidden = architecture.num_attention_heads, architecture.hidden_size
    if architecture.head_dim is None and hidden % heads:
        raise _contradiction(
            path, "hidden_size and num_attention_heads", "a multiple", f"{hidden} and {heads}"
        )
    if heads % architecture.kv_heads:
        raise _contradiction(
            path,
            "num_attention_heads and num_key_value_heads",
            "a multiple",
            f"{heads} and {architecture.kv_heads}",
        )


def _contradiction(path: Path, what: str, expected: str, got: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"the weights contradict {path}, or it contradicts itself: {what}",
        expected=expected,
        got=got,
        next_step=_SAVE_AGAIN,
    )
