"""genai_config.json says what the checkpoint says, and a contradiction makes a variant unusable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import VariantUnusable
from tasks.core.records import Checkpoint
from tasks.variants.genai_config import (
    GenaiSettings,
    adjust_genai_config,
    dropped_sampling,
    read_settings,
    settings_for,
    verify_genai_config,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"max_position_embeddings": 512, "eos_token_id": 0}')
    (source / "generation_config.json").write_text(
        '{"eos_token_id": [2, 0], "do_sample": true, "top_p": 0.8, "repetition_penalty": 1.05}'
    )
    return Checkpoint(
        name="tiny",
        path=source,
        digest="0" * 64,
        family="qwen2",
        architecture="Qwen2ForCausalLM",
        parameters=1000,
        weight_dtype="float32",
        source_bytes=4000,
        weight_files=["model.safetensors"],
        hidden_size=64,
        layers=2,
        attention_heads=4,
        kv_heads=2,
        head_size=16,
        vocabulary_size=459,
        context_length=512,
        tied_embeddings=True,
        eos_token_ids=[2, 0],
        chat_template_file="chat_template.jinja",
        sampling={"top_p": 0.8, "repetition_penalty": 1.05},
    )


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """What the 0.18 builder writes for such a checkpoint, in the FP16 flavour."""
    folder = tmp_path / "built"
    folder.mkdir()
    write(
        folder,
        {
            "model": {
                "bos_token_id": 1,
                "context_length": 512,
                "decoder": {
                    "session_options": {"provider_options": [{"webgpu": {}}]},
                    "head_size": 16,
                    "hidden_size": 64,
                    "num_attention_heads": 4,
                    "num_hidden_layers": 2,
                    "num_key_value_heads": 2,
                },
                "eos_token_id": 0,
                "pad_token_id": 0,
                "vocab_size": 459,
            },
            "search": {
                "do_sample": False,
                "max_length": 512,
                "repetition_penalty": 1.0,
                "temperature": 1.0,
                "top_k": 50,
                "top_p": 1.0,
            },
        },
    )
    return folder


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "genai_config.json").read_text())
    return content


def write(folder: Path, content: dict[str, Any]) -> None:
    (folder / "genai_config.json").write_text(json.dumps(content))


def test_adjusted_config_agrees_with_the_checkpoint(built: Path, checkpoint: Checkpoint) -> None:
    adjust_genai_config(built, settings_for(checkpoint))
    facts = verify_genai_config(built, checkpoint)
    assert (facts.context_length, facts.eos_token_ids) == (512, [2, 0])
    assert read(built)["model"]["decoder"]["session_options"]["provider_options"] == []


def test_sampling_defaults_come_from_generation_config(built: Path, checkpoint: Checkpoint) -> None:
    adjust_genai_config(built, settings_for(checkpoint))
    search = read(built)["search"]
    assert (search["do_sample"], search["top_p"], search["repetition_penalty"]) == (True, 0.8, 1.05)
    assert (search["temperature"], search["top_k"]) == (1.0, 50)


def test_adjusting_adds_no_key(built: Path, checkpoint: Checkpoint) -> None:
    before = read(built)
    adjust_genai_config(built, settings_for(checkpoint))
    after = read(built)
    for part in ("model", "search"):
        assert set(after[part]) == set(before[part])


def test_key_that_the_builder_does_not_write_is_not_added(
    built: Path, checkpoint: Checkpoint
) -> None:
    content = read(built)
    del content["search"]["top_k"]
    write(built, content)
    with pytest.raises(VariantUnusable, match="top_k"):
        adjust_genai_config(built, settings_for(checkpoint))


def test_max_length_is_capped_because_the_cache_is_preallocated(checkpoint: Checkpoint) -> None:
    long = checkpoint.model_copy(update={"context_length": 32768})
    assert settings_for(long).search["max_length"] == 4096
    assert settings_for(checkpoint).search["max_length"] == 512


def test_record_of_the_checkpoint_wins_over_its_files(checkpoint: Checkpoint) -> None:
    admitted = checkpoint.model_copy(update={"eos_token_ids": [5]})
    assert settings_for(admitted).eos_token_id == [5]


def test_checkpoint_without_generation_config_has_greedy_defaults(checkpoint: Checkpoint) -> None:
    (checkpoint.path / "generation_config.json").unlink()
    settings = read_settings(checkpoint.path)
    assert (settings.eos_token_id, settings.search["do_sample"]) == ([0], False)


@pytest.mark.parametrize("token", [None, -1, 459])
def test_pad_and_bos_that_are_no_tokens_become_the_end_token(
    built: Path, checkpoint: Checkpoint, token: int | None
) -> None:
    content = read(built)
    content["model"].update(pad_token_id=token, bos_token_id=token)
    write(built, content)
    adjust_genai_config(built, settings_for(checkpoint))
    assert (read(built)["model"]["pad_token_id"], read(built)["model"]["bos_token_id"]) == (2, 2)


def test_graph_with_a_shorter_context_is_unusable(built: Path, checkpoint: Checkpoint) -> None:
    content = read(built)
    content["model"]["context_length"] = 256
    write(built, content)
    with pytest.raises(VariantUnusable, match="shorter context"):
        adjust_genai_config(built, settings_for(checkpoint))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("model", "eos_token_id", [3]),
        ("model", "eos_token_id", [2]),
        ("model", "vocab_size", 460),
        ("model", "context_length", 4096),
        ("decoder", "num_hidden_layers", 3),
        ("decoder", "num_attention_heads", 8),
        ("decoder", "num_key_value_heads", 4),
        ("decoder", "head_size", 32),
        ("decoder", "hidden_size", 128),
        ("search", "do_sample", False),
        ("search", "temperature", 0.5),
        ("search", "top_k", 0),
        ("search", "top_p", 1.0),
        ("search", "repetition_penalty", 1.0),
        ("search", "max_length", 256),
    ],
)
def test_contradiction_makes_it_unusable(
    built: Path, checkpoint: Checkpoint, part: str, key: str, value: object
) -> None:
    adjust_genai_config(built, settings_for(checkpoint))
    content = read(built)
    target = content["model"]["decoder"] if part == "decoder" else content[part]
    target[key] = value
    write(built, content)
    with pytest.raises(VariantUnusable, match=key):
        verify_genai_config(built, checkpoint)


def test_sampling_default_that_admission_did_not_read_makes_it_unusable(
    built: Path, checkpoint: Checkpoint
) -> None:
    admitted = checkpoint.model_copy(update={"sampling": {"top_p": 0.7}})
    adjust_genai_config(built, settings_for(admitted))
    with pytest.raises(VariantUnusable, match=r"search\.top_p contradicts"):
        verify_genai_config(built, admitted)


def test_sampling_defaults_without_a_place_in_the_runtime_are_named(
    checkpoint: Checkpoint,
) -> None:
    def dropped(**sampling: float) -> str:
        return dropped_sampling(checkpoint.model_copy(update={"sampling": sampling}))

    assert dropped(min_p=0.05, typical_p=0.9, top_p=0.8) == "min_p=0.05, typical_p=0.9"
    assert dropped(min_p=0.0, typical_p=1.0, top_p=0.8) == ""


def test_provider_options_left_in_make_it_unusable(built: Path, checkpoint: Checkpoint) -> None:
    adjust_genai_config(built, settings_for(checkpoint))
    content = read(built)
    content["model"]["decoder"]["session_options"]["provider_options"] = [{"webgpu": {}}]
    write(built, content)
    with pytest.raises(VariantUnusable, match="provider_options"):
        verify_genai_config(built, checkpoint)


def test_special_token_outside_the_vocabulary_makes_it_unusable(
    built: Path, checkpoint: Checkpoint
) -> None:
    adjust_genai_config(built, settings_for(checkpoint))
    content = read(built)
    content["model"]["pad_token_id"] = 459
    write(built, content)
    with pytest.raises(VariantUnusable, match="459"):
        verify_genai_config(built, checkpoint)


def test_settings_cross_olives_configuration_unchanged(checkpoint: Checkpoint) -> None:
    settings = settings_for(checkpoint)
    assert GenaiSettings.model_validate(settings.model_dump(mode="json")) == settings
