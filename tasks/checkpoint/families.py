"""What a complete checkpoint of each model family holds, as rows of data.

A family that has no row is not refused: only the checks that need a row are left out, and said
so. Whether the builder can make it is the builder's business.
"""

from __future__ import annotations

from dataclasses import dataclass

_QKVO = tuple(f"self_attn.{part}_proj.weight" for part in "qkvo")
_QKV_BIAS = tuple(f"self_attn.{part}_proj.bias" for part in "qkv")
_QK_NORM = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
_GATED_MLP = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
_FEEDFORWARD_NORMS = ("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")
_LLAMA = _QKVO + _GATED_MLP + _NORMS


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    Attributes:
        layer_tensors: names that every layer has, after `model.layers.N.`. transformers fills a
            missing one with random numbers and a warning, so a missing one must be refused.
        has_final_norm: `model.norm.weight` exists.
        tied_by_default: what config.json means when it has no `tie_word_embeddings`.
    """

    layer_tensors: tuple[str, ...]
    has_final_norm: bool = True
    tied_by_default: bool = False


# Built and run with the ONNX Runtime GenAI 0.18 builder (2026-11), the Gemma rows aside. Names as
# transformers 5.23 saves them; tests/real/test_checkpoint_real.py compares each row with it.
FAMILIES = {
    "llama": Family(_LLAMA),
    "mistral": Family(_LLAMA),
    "granite": Family(_LLAMA),
    "smollm3": Family(_LLAMA, tied_by_default=True),
    "qwen2": Family(_LLAMA + _QKV_BIAS),
    "qwen3": Family(_LLAMA + _QK_NORM),
    "olmo": Family(_QKVO + _GATED_MLP, has_final_norm=False),
    "phi3": Family(
        (
            "self_attn.qkv_proj.weight",
            "self_attn.o_proj.weight",
            "mlp.gate_up_proj.weight",
            "mlp.down_proj.weight",
            *_NORMS,
        )
    ),
    "gemma": Family(_LLAMA, tied_by_default=True),
    "gemma2": Family(_LLAMA + _FEEDFORWARD_NORMS, tied_by_default=True),
    "gemma3_text": Family(_LLAMA + _FEEDFORWARD_NORMS + _QK_NORM, tied_by_default=True),
}
