"""The forecast meets what was measured, and a build that cannot fit is refused with numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import DoesNotFit
from tasks.core.records import Checkpoint, Environment, Forecast, Precision, Recipe
from tasks.environment.forecast import (
    GIB,
    ExaminationForecast,
    forecast_build,
    forecast_examination,
    in_one_line,
    require_fit,
    variant_size_bytes,
)

MB = 1_000_000


def half_billion(*, tied: bool = True) -> Checkpoint:
    """Qwen2.5-0.5B's shape, for which the sizes were measured."""
    table = 151936 * 896
    return Checkpoint(
        name="half",
        path=Path("/models/half"),
        digest="0" * 64,
        family="qwen2",
        architecture="Qwen2ForCausalLM",
        parameters=494_032_768 + (0 if tied else table),
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
        tied_embeddings=tied,
        eos_token_ids=[2],
        chat_template_file="chat_template.jinja",
        sampling={},
    )


def hundred_million(source_bytes: int) -> Checkpoint:
    """A smaller Qwen2 with so many bytes a weight."""
    parameters = 107_185_920
    return half_billion().model_copy(
        update={
            "parameters": parameters,
            "source_bytes": source_bytes * parameters,
            "hidden_size": 768,
            "layers": 12,
            "attention_heads": 12,
            "kv_heads": 4,
            "vocabulary_size": 32000,
            "context_length": 2048,
        }
    )


def machine(*, available_gib: float = 20, disk_gib: float = 100) -> Environment:
    return Environment(
        python="3.11.7",
        platform="Linux",
        cpu_model="Xeon",
        cpu_features=["AVX2"],
        logical_cores=2,
        physical_cores=2,
        ram_total_bytes=24 * GIB,
        ram_available_bytes=round(available_gib * GIB),
        disk_free_bytes=round(disk_gib * GIB),
        packages=[],
        foundry_version="2.2.1",
        foundry_detail="started",
        machine_class="0" * 64,
        problems=[],
        warnings=[],
    )


def forecast(precision: Precision, *, peak_gib: float = 1, disk_gib: float = 1) -> Forecast:
    return Forecast(
        recipe=Recipe(precision=precision),
        peak_rss_bytes=round(peak_gib * GIB),
        disk_bytes=round(disk_gib * GIB),
        seconds=10,
    )


INT4, INT8, FP16 = Precision.INT4, Precision.INT8, Precision.FP16
K_QUANT = Recipe(precision=INT4, algorithm="k_quant", is_symmetric=False, int8_head=True)


# Sizes of the 0.5 B checkpoint's variants as built and weighed in 2026-11, in MB.
@pytest.mark.parametrize(
    ("recipe", "measured_mb"),
    [
        (Recipe(precision=INT4), 318),
        (Recipe(precision=INT4, block_size=128), 272),
        (K_QUANT, 396),
        (K_QUANT.model_copy(update={"int8_layers": True}), 429),
        (Recipe(precision=INT8), 565),
        (Recipe(precision=FP16), 993),
        (Recipe(precision=Precision.FP32), 1985),
    ],
    ids=lambda value: value if isinstance(value, int) else None,
)
def test_size_of_a_tied_model_meets_the_measured_one(recipe: Recipe, measured_mb: int) -> None:
    assert variant_size_bytes(half_billion(), recipe) == pytest.approx(measured_mb * MB, rel=0.02)


def test_size_with_a_float_embedding_meets_the_measured_one() -> None:
    """The same model built with shared_embeddings=false: 863 MB, 870 MB with zero points."""
    untied = half_billion(tied=False)
    assert variant_size_bytes(untied, Recipe(precision=INT4)) == pytest.approx(863 * MB, rel=0.02)
    asymmetric = Recipe(precision=INT4, is_symmetric=False)
    assert variant_size_bytes(untied, asymmetric) == pytest.approx(870 * MB, rel=0.02)


# model.onnx.data of a Qwen2 of 107 M (32,000 x 768 tied, 12 layers, context 2,048) and the peak
# of its build in MiB, from a bfloat16 and from a float32 source; 2026-11.
@pytest.mark.parametrize(
    ("precision", "measured_mb", "bfloat16_mib", "float32_mib"),
    [
        (INT4, 67.57, 1373, 1602),
        (INT8, 121.15, 1554, 1781),
        (FP16, 214.60, 865, 1082),
        (Precision.FP32, 429.21, 948, 1088),
    ],
)
def test_smaller_model_meets_the_measured_size_and_memory(
    precision: Precision, measured_mb: float, bfloat16_mib: int, float32_mib: int
) -> None:
    for source_bytes, measured_mib in ((2, bfloat16_mib), (4, float32_mib)):
        checkpoint = hundred_million(source_bytes)
        recipe = Recipe(precision=precision, builder="plain")
        size = variant_size_bytes(checkpoint, recipe)
        assert size == pytest.approx(measured_mb * MB, rel=0.005)
        peak_mib = forecast_build(checkpoint, recipe).peak_rss_bytes / 1024**2
        assert measured_mib <= peak_mib <= 1.16 * measured_mib


@pytest.mark.parametrize(
    ("recipe", "measured_gb"),
    [
        (Recipe(precision=INT4), 4.4),
        (Recipe(precision=INT8), 5.4),
        (Recipe(precision=FP16), 1.9),
        (Recipe(precision=Precision.FP32), 2.5),
        (K_QUANT, 8.6),
    ],
    ids=lambda value: str(value) if isinstance(value, float) else None,
)
def test_memory_is_forecast_above_the_measured_peak_but_not_by_far(
    recipe: Recipe, measured_gb: float
) -> None:
    plain = recipe.model_copy(update={"builder": "plain"})
    peak = forecast_build(half_billion(), plain).peak_rss_bytes
    assert measured_gb * 1e9 <= peak <= measured_gb * 1e9 + 0.8e9


@pytest.mark.parametrize("recipe", [Recipe(precision=INT4), Recipe(precision=FP16)])
def test_fast_way_needs_no_more_than_the_checkpoint_and_0_6_gib(recipe: Recipe) -> None:
    """Three variants of it together took 875 MiB."""
    checkpoint = half_billion()
    peak = forecast_build(checkpoint, recipe).peak_rss_bytes
    assert 875 * 1024**2 <= peak <= checkpoint.source_bytes + 0.6 * GIB


def test_untied_checkpoint_has_two_tables_to_read() -> None:
    tied, untied = (forecast_build(half_billion(tied=t), Recipe(precision=INT4)) for t in (1, 0))
    assert untied.peak_rss_bytes > tied.peak_rss_bytes


def test_disk_holds_the_cache_and_the_output() -> None:
    checkpoint, recipe = half_billion(), Recipe(precision=INT4)
    size = variant_size_bytes(checkpoint, recipe)
    assert 2 * size < forecast_build(checkpoint, recipe).disk_bytes < 2 * size + 200 * MB


def test_time_grows_with_the_parameters() -> None:
    small, recipe = half_billion(), Recipe(precision=INT4, builder="plain")
    large = small.model_copy(update={"parameters": 10 * small.parameters})
    assert 15 < forecast_build(small, recipe).seconds < 40
    assert forecast_build(large, recipe).seconds > 5 * forecast_build(small, recipe).seconds


def test_enough_memory_and_disk_is_no_refusal() -> None:
    require_fit(machine(), [forecast(INT4), forecast(INT8)])
    require_fit(machine(), [])


def test_largest_build_beyond_memory_is_refused_with_its_name_and_numbers() -> None:
    builds = [forecast(INT4, peak_gib=4), forecast(INT8, peak_gib=12)]
    require_fit(machine(available_gib=14), builds)
    with pytest.raises(DoesNotFit, match=r"building INT8 needs 12\.0 GiB of memory") as caught:
        require_fit(machine(available_gib=12.5), builds)
    assert "12.5 GiB available of 24.0 GiB" in caught.value.got
    assert "leave INT8 out" in caught.value.next_step


def test_reserve_is_left_to_the_rest_of_the_machine() -> None:
    build = [forecast(INT4, peak_gib=10)]
    require_fit(machine(available_gib=11.3), build)
    with pytest.raises(DoesNotFit):
        require_fit(machine(available_gib=11.1), build)


def test_examination_of_the_reference_is_forecast_above_every_other_step() -> None:
    """What took most memory of all of the 0.5 B release: 6.1 GB, and 4.1 GB for INT4."""
    checkpoint = half_billion()
    recipes = [Recipe(precision=precision) for precision in (Precision.FP32, INT4, INT8, FP16)]
    found = {one.step: one for one in (forecast_examination(checkpoint, r) for r in recipes)}
    assert list(found) == ["examine reference", "examine int4", "examine int8", "examine fp16"]
    assert 6.1e9 <= found["examine reference"].peak_rss_bytes <= 7.3e9
    assert 4.1e9 <= found["examine int4"].peak_rss_bytes <= 4.9e9
    builds = [forecast_build(checkpoint, recipe).peak_rss_bytes for recipe in recipes]
    assert found["examine reference"].peak_rss_bytes > max(builds)


def test_examination_that_cannot_fit_is_refused_with_its_name_and_numbers() -> None:
    builds = [forecast(INT4, peak_gib=4)]
    reference = ExaminationForecast(step="examine reference", peak_rss_bytes=12 * GIB)
    variant = ExaminationForecast(step="examine int4", peak_rss_bytes=8 * GIB)
    require_fit(machine(available_gib=14), builds, [variant, reference])
    with pytest.raises(DoesNotFit, match=r"examine reference needs 12\.0 GiB of memory") as caught:
        require_fit(machine(available_gib=12.5), builds, [variant, reference])
    assert "12.5 GiB available of 24.0 GiB" in caught.value.got


def test_sum_of_the_disk_is_refused_with_numbers() -> None:
    builds = [forecast(INT4, disk_gib=2), forecast(INT8, disk_gib=3)]
    require_fit(machine(disk_gib=5), builds)
    with pytest.raises(DoesNotFit, match=r"INT4, INT8 needs 5\.0 GiB of disk") as caught:
        require_fit(machine(disk_gib=4.5), builds)
    assert "INGOT_HOME" in caught.value.next_step


def test_one_line_says_memory_disk_and_time() -> None:
    line = in_one_line([forecast(INT4, peak_gib=4), forecast(INT8, peak_gib=6)])
    assert line == "INT4, INT8: at most 6.0 GiB of memory, 2.0 GiB of disk, about 20 s"
    assert in_one_line([]) == "nothing to build"


def test_one_line_says_the_memory_of_examining_where_that_is_more() -> None:
    examination = ExaminationForecast(step="examine reference", peak_rss_bytes=7 * GIB)
    assert "at most 7.0 GiB of memory" in in_one_line([forecast(INT4, peak_gib=4)], [examination])
