"""Small, randomly initialised, complete Hugging Face checkpoints for the tests.

They have every file that a real checkpoint has and answer nonsense: what a model knows is none of
this module's business. Imports torch and transformers only inside its functions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from tasks.core.checkpoint_files import checkpoint_digest
from tasks.core.records import Checkpoint

Family = Literal["qwen2", "qwen3", "llama", "mistral", "phi3"]

END_OF_TURN = "<|im_end|>"
START_OF_TURN = "<|im_start|>"
END_OF_TEXT = "<|endoftext|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

_SENTENCES = [
    "Turn on the light in the kitchen, please.",
    "Set the heating in the bedroom to twenty one degrees.",
    'The answer is {"action": "turn_on", "device": "light", "room": "kitchen"}.',
    "What is the temperature in the living room this morning?",
    "system user assistant You are a helpful assistant. Hello! How are you?",
    "Numbers such as 0, 1, 2, 3, 42 and 1984 occur, and so do words like naïve or café.",
    "Call me at 6:30 and play some quiet music, then lock the front door.",
]

# transformers 5 gives every `qwen2` folder this pre-tokenizer, whatever its tokenizer.json says.
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def write_tiny_checkpoint(
    folder: Path,
    family: Family = "qwen2",
    *,
    tied: bool = False,
    seed: int = 0,
    dtype: str = "float32",
) -> Path:
    """Write a checkpoint of two layers and hidden size 64, with a ChatML template."""
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(folder, _SENTENCES, vocabulary_size=600)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    pad = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    config = _config(
        family,
        **_SHAPE,
        vocab_size=len(tokenizer),
        tie_word_embeddings=tied,
        bos_token_id=pad,
        eos_token_id=end,
        pad_token_id=pad,
    )
    _write_weights(folder, config, seed=seed, dtype=dtype)
    GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.8,
        top_k=20,
        repetition_penalty=1.05,
        bos_token_id=pad,
        eos_token_id=[end, pad],
        pad_token_id=pad,
    ).save_pretrained(folder)
    return folder


def write_half_billion_checkpoint(folder: Path, dtype: str = "bfloat16") -> Path:
    """Write a checkpoint of Qwen2.5-0.5B's exact shape, tied, random: for runs that count memory.

    Takes about 1 GB of disk in bfloat16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(folder, _SENTENCES, vocabulary_size=600)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    pad = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    config = _config(
        "qwen2",
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151936,
        max_position_embeddings=32768,
        rope_theta=1_000_000.0,
        tie_word_embeddings=True,
        bos_token_id=pad,
        eos_token_id=end,
        pad_token_id=pad,
    )
    _write_weights(folder, config, seed=0, dtype=dtype)
    generation = {"eos_token_id": [end, pad], "bos_token_id": pad, "pad_token_id": pad}
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return folder


def checkpoint_record(folder: Path) -> Checkpoint:
    """Describe a written checkpoint as admission would, without admission's checks."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    return Checkpoint(
        name=folder.name,
        path=folder,
        digest=checkpoint_digest(folder, [weights.name]),
        family=config["model_type"],
        architecture=config["architectures"][0],
        parameters=weights.stat().st_size // (2 if config["dtype"] == "bfloat16" else 4),
        weight_dtype=config["dtype"],
        source_bytes=weights.stat().st_size,
        weight_files=[weights.name],
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        attention_heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_size=config["hidden_size"] // config["num_attention_heads"],
        vocabulary_size=config["vocab_size"],
        context_length=config["max_position_embeddings"],
        tied_embeddings=config["tie_word_embeddings"],
        eos_token_ids=generation["eos_token_id"],
        chat_template_file="chat_template.jinja",
        sampling={
            key: float(generation[key])
            for key in ("temperature", "top_p", "top_k", "repetition_penalty")
            if generation.get(key) is not None
        },
    )


def logits_of(folder: Path) -> Any:
    """Give a built model's logits over 60 fixed tokens, as float32, shape (1, 60, vocabulary)."""
    import numpy as np
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=64, do_sample=False, batch_size=1)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array([(7 * i + 3) % 400 for i in range(60)], dtype=np.int32))
    return np.asarray(generator.get_output("logits"), dtype=np.float32)


def _config(family: Family, **fields: Any) -> Any:
    from transformers import LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

    match family:
        case "qwen2":
            return Qwen2Config(**fields)
        case "qwen3":
            head_size = fields["hidden_size"] // fields["num_attention_heads"]
            return Qwen3Config(**fields, head_dim=head_size)
        case "llama":
            return LlamaConfig(**fields)
        case "mistral":
            return MistralConfig(**fields)
        case "phi3":
            length = fields["max_position_embeddings"]
            return Phi3Config(**fields, original_max_position_embeddings=length)


def _write_weights(folder: Path, config: Any, *, seed: int, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)


def _write_tokenizer(folder: Path, sentences: list[str], *, vocabulary_size: int) -> Any:
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, START_OF_TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[START_OF_TURN],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    return wrapped
