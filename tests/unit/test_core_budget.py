"""What a step will need is told above what was measured, but not by far."""

from __future__ import annotations

from pathlib import Path

from tasks.core.budget import examine_reference_bytes, examine_variant_bytes, stage_bytes
from tasks.core.records import Checkpoint, Precision


def half_billion() -> Checkpoint:
    """Qwen2.5-0.5B's shape, for which the peaks were measured."""
    return Checkpoint(
        name="half",
        path=Path("/models/half"),
        digest="0" * 64,
        family="qwen2",
        architecture="Qwen2ForCausalLM",
        parameters=494_032_768,
        weight_dtype="BF16",
        source_bytes=988_097_824,
        weight_files=["model.safetensors"],
        hidden_size=896,
        layers=24,
        attention_heads=14,
        kv_heads=2,
        head_size=64,
        vocabulary_size=151936,
        context_length=32768,
        tied_embeddings=True,
        eos_token_ids=[2],
        chat_template_file="chat_template.jinja",
        sampling={},
    )


REFERENCE_BYTES, INT4_BYTES, FP16_BYTES = 1_985_000_000, 318_000_000, 993_000_000


def test_examination_is_forecast_above_the_measured_peak_but_not_by_far() -> None:
    checkpoint = half_billion()
    reference = examine_reference_bytes(checkpoint, REFERENCE_BYTES)
    int4 = examine_variant_bytes(checkpoint, REFERENCE_BYTES, Precision.INT4, INT4_BYTES)
    assert 6.1e9 <= reference <= 1.2 * 6.1e9
    assert 4.1e9 <= int4 <= 1.2 * 4.1e9


def test_fp16_counts_as_the_fp32_that_it_becomes() -> None:
    checkpoint = half_billion()
    fp16 = examine_variant_bytes(checkpoint, REFERENCE_BYTES, Precision.FP16, FP16_BYTES)
    int8 = examine_variant_bytes(checkpoint, REFERENCE_BYTES, Precision.INT8, FP16_BYTES)
    assert fp16 - int8 > 0.8 * FP16_BYTES


def test_staged_variant_is_counted_in_both_runtimes() -> None:
    small = stage_bytes(half_billion(), Precision.FP16, 0)
    large = stage_bytes(half_billion(), Precision.FP16, FP16_BYTES)
    assert large - small >= 2 * 2.5 * FP16_BYTES
