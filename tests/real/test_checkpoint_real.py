"""Admission agrees with transformers: what it saves passes, the rows name the tensors it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tasks.checkpoint.admit import admit_checkpoint
from tasks.checkpoint.families import FAMILIES
from tests.tiny_models import write_tiny_checkpoint

pytestmark = pytest.mark.real

_SHAPE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "llama", "phi3"])
def test_checkpoint_that_transformers_saved_is_admitted(
    family: Literal["qwen2", "llama", "phi3"], tied: bool, tmp_path: Path
) -> None:
    checkpoint = admit_checkpoint(write_tiny_checkpoint(tmp_path / "tiny", family, tied=tied))
    assert checkpoint.family == family
    assert checkpoint.tied_embeddings is tied
    assert checkpoint.sampling["temperature"] == 0.7


@pytest.mark.parametrize("name", FAMILIES)
def test_row_of_a_family_names_the_tensors_of_transformers(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(name, **_SHAPE)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    prefix = "model.layers.0."
    tensors = set(model.state_dict())
    layer = {key.removeprefix(prefix) for key in tensors if key.startswith(prefix)}
    assert layer == set(FAMILIES[name].layer_tensors)
    assert ("model.norm.weight" in tensors) is FAMILIES[name].has_final_norm
    assert AutoConfig.for_model(name).tie_word_embeddings is FAMILIES[name].tied_by_default
