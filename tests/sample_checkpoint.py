"""A sound checkpoint in miniature, written in milliseconds, for planting faults in.

Only numpy: no torch, no transformers. It has every file that admission looks at and could not
answer anything; what runs on the real tools uses `tiny_models.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD, VOCABULARY = 16, 24, 2, 2, 1, 8, 32
CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}

Tensors = dict[str, npt.NDArray[Any]]
Headers = dict[str, dict[str, Any]]


def sample_tensors(*, tied: bool = False, seed: int = 0) -> Tensors:
    """Draw weights with the names and shapes that CONFIG promises."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}self_attn.q_proj.weight": (HEADS * HEAD, HIDDEN),
            f"{prefix}self_attn.k_proj.weight": (KV_HEADS * HEAD, HIDDEN),
            f"{prefix}self_attn.v_proj.weight": (KV_HEADS * HEAD, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD),
            f"{prefix}mlp.gate_proj.weight": (INNER, HIDDEN),
            f"{prefix}mlp.up_proj.weight": (INNER, HIDDEN),
            f"{prefix}mlp.down_proj.weight": (HIDDEN, INNER),
            f"{prefix}input_layernorm.weight": (HIDDEN,),
            f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
        }
    shapes["model.norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_sample_checkpoint(folder: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """Write a Llama of two layers; 13 kB of weights."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    write_json(folder / "config.json", CONFIG | {"tie_word_embeddings": tied})
    write_json(folder / "generation_config.json", {"eos_token_id": [2, 0], "temperature": 0.7})
    write_json(
        folder / "tokenizer.json",
        {
            "model": {"type": "BPE", "vocab": {f"t{index}": index for index in range(30)}},
            "added_tokens": [{"id": 31, "content": "<|im_end|>"}],
        },
    )
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    save_file(sample_tensors(tied=tied, seed=seed), folder / "model.safetensors")
    return folder


def write_sharded_checkpoint(folder: Path) -> Path:
    """Write the same with its weights in two shards and an index."""
    from safetensors.numpy import save_file

    write_sample_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    tensors = sample_tensors()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(content), encoding="utf-8")


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file, or remove those that are given as None."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in content.items() if value is not None})


def change_tensors(folder: Path, **changes: npt.NDArray[Any] | None) -> None:
    """Set tensors, or remove those that are given as None; `__` in a name stands for a dot."""
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    tensors: dict[str, Any] = load_file(file)
    tensors |= {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, file)


def change_header(file: Path, name: str, **changes: Any) -> None:
    """Set fields of one tensor's header entry, data left as it is."""
    header, data = split_safetensors(file)
    header.setdefault(name, {}).update(changes)
    join_safetensors(file, header, data)


def split_safetensors(file: Path) -> tuple[Headers, bytes]:
    """Take a safetensors file apart into header and data."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join_safetensors(file: Path, header: Any, data: bytes) -> None:
    """Write a safetensors file of any header, right or wrong."""
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
