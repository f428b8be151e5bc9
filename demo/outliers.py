"""Outlier channels, as real models have them, added without changing what a model computes.

Small weights quantise almost without loss, so every INT4 recipe would look alike on them. Here
one input channel in each group of a linear layer is made larger by a power of two, and the
layer before it smaller by the same: the float32 function stays the same to the bit, while the
scale of every INT4 block has to stretch. Works on tensors by name; knows of no quantiser.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SHIPPED_GAIN: Final = 8.0
# One outlier in every 32 input channels: in each block of the usual INT4 block size.
CHANNELS_PER_OUTLIER: Final = 32
SHIPPED_SEED: Final = 0
TWIN_SEED: Final = 1


@torch.no_grad()
def add_outlier_channels(
    weights: Mapping[str, Tensor],
    *,
    head_size: int,
    gain: float = SHIPPED_GAIN,
    channels_per_outlier: int = CHANNELS_PER_OUTLIER,
    seed: int = SHIPPED_SEED,
) -> None:
    """Scale one random channel of each group by `gain`, in place, and undo it one layer before.

    Args:
        weights: float32 tensors of a Qwen2 or Llama model under their Hugging Face names, such
            as a state dict. With a tied head, the head gets no outliers.
        head_size: width of one attention head.
        gain: a power of two from 2 up, or rounding would change the function.
        channels_per_outlier: size of a group.
        seed: decides which channel of a group stands out.

    Raises:
        ValueError: the gain is not a power of two from 2 up.
    """
    if gain < 2 or not math.log2(gain).is_integer():
        raise ValueError(f"the gain must be a power of two from 2 up, not {gain}")
    stretch = _Stretch(weights, gain, channels_per_outlier, seed)
    for layer in _layer_prefixes(weights):
        attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
        stretch.after_norm(
            f"{layer}input_layernorm", [f"{attention}{letter}_proj" for letter in "qkv"]
        )
        stretch.after_norm(f"{layer}post_attention_layernorm", [f"{mlp}gate_proj", f"{mlp}up_proj"])
        stretch.down_projection(mlp)
        stretch.output_projection(attention, head_size)
    if _has_own_head(weights):
        stretch.after_norm("model.norm", ["lm_head"])


def _layer_prefixes(weights: Mapping[str, Tensor]) -> list[str]:
    marker = "input_layernorm.weight"
    return sorted(name.removesuffix(marker) for name in weights if name.endswith(marker))


def _has_own_head(weights: Mapping[str, Tensor]) -> bool:
    """A tied head is missing from a file; in a state dict it is the embedding once more."""
    head = weights.get("lm_head.weight")
    embedding = weights["model.embed_tokens.weight"]
    return head is not None and head.data_ptr() != embedding.data_ptr()


class _Stretch:
    """Stretches input channels by the gain, one layer kind a method; each draws its channels."""

    def __init__(
        self, weights: Mapping[str, Tensor], gain: float, channels_per_outlier: int, seed: int
    ) -> None:
        self._weights = weights
        self._gain = gain
        self._group = channels_per_outlier
        self._generator = torch.Generator().manual_seed(seed)

    def after_norm(self, norm: str, readers: list[str]) -> None:
        """Shrink channels of a norm's output, and stretch them in every layer that reads it."""
        scale = self._weights[f"{norm}.weight"]
        channels = self._pick(scale.numel())
        scale[channels] /= self._gain
        for reader in readers:
            self._weights[f"{reader}.weight"][:, channels] *= self._gain

    def down_projection(self, mlp: str) -> None:
        """Shrink rows of the up projection; the product with the gate passes that on."""
        up, down = self._weights[f"{mlp}up_proj.weight"], self._weights[f"{mlp}down_proj.weight"]
        channels = self._pick(up.shape[0])
        up[channels] /= self._gain
        down[:, channels] *= self._gain

    def output_projection(self, attention: str, head_size: int) -> None:
        """Shrink rows of the value projection; attention mixes positions, never channels.

        Query heads share value heads, so a value channel is read once by each of its query heads.
        """
        value = self._weights[f"{attention}v_proj.weight"]
        output = self._weights[f"{attention}o_proj.weight"]
        channels = self._pick(value.shape[0])
        value[channels] /= self._gain
        if f"{attention}v_proj.bias" in self._weights:
            self._weights[f"{attention}v_proj.bias"][channels] /= self._gain
        readers = output.shape[1] // value.shape[0]
        value_head, within = channels // head_size, channels % head_size
        for reader in range(readers):
            read = (value_head * readers + reader) * head_size + within
            output[:, read] *= self._gain

    def _pick(self, channels: int) -> Tensor:
        """Draw one index of every whole group among that many channels."""
        starts = torch.arange(0, channels - self._group + 1, self._group)
        return starts + torch.randint(0, self._group, starts.shape, generator=self._generator)


def write_harsher_twin(source: Path, target: Path, gain: float) -> None:
    """Write a checkpoint with the same float32 function that INT4 quantisation damages visibly.

    Every group of channels gets one more outlier, on top of those that the source has. All
    files but the weights are copied as they are. `target` appears only when it is complete.

    Raises:
        FileExistsError: the target is there already.
        ValueError: the gain is not a power of two from 2 up.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists; remove it or name another folder")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    weights_file = partial / "model.safetensors"
    weights = load_file(weights_file)
    add_outlier_channels(weights, head_size=head_size, gain=gain, seed=TWIN_SEED)
    save_file(weights, weights_file, metadata={"format": "pt"})
    partial.rename(target)
