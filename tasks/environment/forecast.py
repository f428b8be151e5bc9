"""What building and examining will need, told from the checkpoint's record alone.

Arithmetic on measured constants; nothing here measures or looks at the machine.

The constants were measured with the ONNX Runtime GenAI 0.18 builder under Olive 0.13 on Qwen2
checkpoints of 5, 107 and 494 M parameters (2 cores with AVX512-VNNI, 2026-11). Sizes follow from
the file format and held within 2 %; memory is an upper estimate, 3 to 15 % above what was measured;
seconds are those of an idle machine of that kind, and rough on any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.core.budget import examine_reference_bytes, examine_variant_bytes
from tasks.core.errors import DoesNotFit
from tasks.core.records import Checkpoint, Environment, Forecast, Precision, Recipe, Record

GIB = 1024**3

# Building next to nothing (5 M parameters): 560 to 613 MiB resident, of which importing torch,
# transformers, Olive and ONNX Runtime is 460 MiB; 5.2 to 6 CPU seconds.
BASE_RSS_BYTES = 614 * 1024**2
BASE_SECONDS = 6.0
# Graph, tokenizer and configuration files beside the weights; a large tokenizer has 33 MiB.
FILES_BESIDE_BYTES = 48 * 1024**2
# Olive's cache and its output folder each hold the whole model until the build is published; of
# several that are built together there is one copy.
COPIES_ON_DISK = 2

# A float32 source costs 1.4 to 2.2 bytes a parameter more than the two-byte one measured below.
RSS_PER_EXTRA_SOURCE_BYTE = 1.15

# Left to the rest of the machine.
RESERVE_BYTES = GIB // 2
RESERVE_PART = 0.05


@dataclass(frozen=True)
class BuildCost:
    """What one parameter of a two-byte source costs: peak resident bytes, and nanoseconds.

    Beyond `BASE_RSS_BYTES` and `BASE_SECONDS`.
    """

    rss_bytes: float
    ns: float


_COSTS = {
    Precision.INT4: BuildCost(8.0, 31.0),
    Precision.INT8: BuildCost(10.0, 31.0),
    Precision.FP16: BuildCost(2.9, 14.0),
    Precision.FP32: BuildCost(4.0, 31.0),
}
# The fast way holds what it imports, one matrix of the checkpoint while its pages are mapped, and
# the pieces in work: 875 MiB for INT4, INT8 and FP16 of 494 M parameters together, 260 MiB of them
# the tied embedding. Each further variant has a graph (tasks/variants/build.py counts it).
_FAST_PIECES_BYTES = 128 * 1024**2
_FAST_BASE_SECONDS = 3.0
_FAST_NS = 8.0

_K_QUANT_COST = BuildCost(17.0, 516.0)  # the search for scales is numpy, in ONNX Runtime 1.31

_SCALE_BYTES = 4  # one float32 a block
_BITS = {Precision.INT4: 4, Precision.INT8: 8}
_FLOAT_BYTES = {Precision.FP16: 2, Precision.FP32: 4}


class ExaminationForecast(Record):
    """What examining one build will need; that of the FP32 recipe holds Hugging Face's model too.

    Attributes:
        step: the step's name, such as `examine reference`.
        peak_rss_bytes: of its child process.
    """

    step: str
    peak_rss_bytes: int


def forecast_build(checkpoint: Checkpoint, recipe: Recipe) -> Forecast:
    """Forecast one build, alone; the fast way builds several for little more."""
    cost = _cost(recipe)
    size = variant_size_bytes(checkpoint, recipe)
    if _is_fast(recipe):
        return Forecast(
            recipe=recipe,
            peak_rss_bytes=BASE_RSS_BYTES + _FAST_PIECES_BYTES + _tables_bytes(checkpoint),
            disk_bytes=COPIES_ON_DISK * (size + FILES_BESIDE_BYTES),
            seconds=_FAST_BASE_SECONDS + _FAST_NS * 1e-9 * checkpoint.parameters,
        )
    extra_source = max(0, checkpoint.source_bytes - 2 * checkpoint.parameters)
    weights = cost.rss_bytes * checkpoint.parameters + RSS_PER_EXTRA_SOURCE_BYTE * extra_source
    return Forecast(
        recipe=recipe,
        peak_rss_bytes=BASE_RSS_BYTES + round(weights),
        disk_bytes=COPIES_ON_DISK * (size + FILES_BESIDE_BYTES),
        seconds=BASE_SECONDS + cost.ns * 1e-9 * checkpoint.parameters,
    )


def forecast_examination(checkpoint: Checkpoint, recipe: Recipe) -> ExaminationForecast:
    """Forecast the examination of what a recipe gives."""
    reference = variant_size_bytes(checkpoint, Recipe(precision=Precision.FP32))
    if recipe.precision is Precision.FP32:
        peak = examine_reference_bytes(checkpoint, reference)
        return ExaminationForecast(step="examine reference", peak_rss_bytes=peak)
    size = variant_size_bytes(checkpoint, recipe)
    return ExaminationForecast(
        step=f"examine {recipe.precision}",
        peak_rss_bytes=examine_variant_bytes(checkpoint, reference, recipe.precision, size),
    )


def variant_size_bytes(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Predict the weights of a variant: linear layers, embedding, rotary tables.

    Norms and biases, kept in float32, count as linear weights: below 0.1 % of a real model. The
    files beside the weights do not count: 50 kB and the tokenizer.
    """
    rotary_values = checkpoint.context_length * checkpoint.head_size  # half cosines, half sines
    if recipe.precision in _FLOAT_BYTES:
        size = _FLOAT_BYTES[recipe.precision]
        return size * (checkpoint.parameters + rotary_values)
    return round(_quantised_weights_bytes(checkpoint, recipe) + 4 * rotary_values)


def require_fit(
    environment: Environment,
    forecasts: Sequence[Forecast],
    examinations: Sequence[ExaminationForecast] = (),
) -> None:
    """Refuse steps that memory or disk cannot hold, each on its own.

    Args:
        environment: the machine.
        forecasts: all builds of one release.
        examinations: and all examinations.

    Raises:
        DoesNotFit: with what is needed and what there is.
    """
    if forecasts:
        largest = max(forecasts, key=lambda forecast: forecast.peak_rss_bytes)
        _require_memory(
            environment,
            f"building {_name(largest)}",
            largest.peak_rss_bytes,
            instead=f"leave {_name(largest)} out",
        )
        _require_disk(environment, forecasts)
    if examinations:
        heaviest = max(examinations, key=lambda examination: examination.peak_rss_bytes)
        _require_memory(
            environment,
            heaviest.step,
            heaviest.peak_rss_bytes,
            instead="release a smaller model",
        )


def _require_memory(
    environment: Environment, step: str, peak_rss_bytes: int, *, instead: str
) -> None:
    usable = _usable_bytes(environment)
    if peak_rss_bytes <= usable:
        return
    free = _gib(peak_rss_bytes + _reserve_bytes(environment))
    raise DoesNotFit(
        f"{step} needs {_gib(peak_rss_bytes)} of memory",
        expected=f"at most {_gib(usable)}: what is available but for a reserve",
        got=f"{_gib(environment.ram_available_bytes)} available of "
        f"{_gib(environment.ram_total_bytes)}",
        next_step=f"close other programs, {instead}, or use a machine with {free} free",
    )


def _require_disk(environment: Environment, forecasts: Sequence[Forecast]) -> None:
    disk = sum(item.disk_bytes for item in forecasts)
    if disk <= environment.disk_free_bytes:
        return
    raise DoesNotFit(
        f"building {', '.join(_name(item) for item in forecasts)} needs {_gib(disk)} of disk",
        expected=f"at most {_gib(environment.disk_free_bytes)}, which are free",
        got=_gib(disk),
        next_step="free disk space, or point INGOT_HOME to a larger disk",
    )


def in_one_line(
    forecasts: Sequence[Forecast], examinations: Sequence[ExaminationForecast] = ()
) -> str:
    """Say what all steps need: largest memory, disk together, seconds of building in turn."""
    if not forecasts:
        return "nothing to build"
    peaks = [item.peak_rss_bytes for item in forecasts]
    peaks += [item.peak_rss_bytes for item in examinations]
    return (
        f"{', '.join(_name(item) for item in forecasts)}: "
        f"at most {_gib(max(peaks))} of memory, "
        f"{_gib(sum(item.disk_bytes for item in forecasts))} of disk, "
        f"about {sum(item.seconds for item in forecasts):.0f} s"
    )


def _cost(recipe: Recipe) -> BuildCost:
    return _K_QUANT_COST if _is_k_quant(recipe) else _COSTS[recipe.precision]


def _is_fast(recipe: Recipe) -> bool:
    return recipe.builder == "fast" and not _is_k_quant(recipe)


def _is_k_quant(recipe: Recipe) -> bool:
    return recipe.algorithm == "k_quant" and recipe.precision in _BITS


def _tables_bytes(checkpoint: Checkpoint) -> int:
    """Give the bytes of embedding and head in the checkpoint, its largest matrices by far."""
    weights = checkpoint.vocabulary_size * checkpoint.hidden_size
    tables = 1 if checkpoint.tied_embeddings else 2
    return round(tables * weights * checkpoint.source_bytes / checkpoint.parameters)


def _quantised_weights_bytes(checkpoint: Checkpoint, recipe: Recipe) -> float:
    table = checkpoint.vocabulary_size * checkpoint.hidden_size
    outside = table if checkpoint.tied_embeddings else 2 * table
    layers = checkpoint.parameters - outside
    plain, fine = _bytes_per_weight(recipe, _BITS[recipe.precision]), _bytes_per_weight(recipe, 8)
    finer = _sensitive_part(checkpoint) * layers if recipe.int8_layers else 0.0
    head = table * (fine if recipe.int8_head else plain)
    # A tied embedding is read from the quantised head, another one stays in float32.
    embedding = 0 if checkpoint.tied_embeddings else 4 * table
    return (layers - finer) * plain + finer * fine + head + embedding


def _bytes_per_weight(recipe: Recipe, bits: int) -> float:
    zero_point_bits = 0 if recipe.is_symmetric else bits
    return bits / 8 + (_SCALE_BYTES + zero_point_bits / 8) / recipe.block_size


def _sensitive_part(checkpoint: Checkpoint) -> float:
    """Give the part of the layers' weights that `mixed_layers` lifts to 8 bits.

    The builder's rule: the Q, K, V and down projections of the first and last eighth of the
    layers and of every third in between.
    """
    count = checkpoint.layers
    first = round(count / 8)
    lifted = sum(
        layer < count / 8 or layer >= 7 * count / 8 or (layer - first) % 3 == 2
        for layer in range(count)
    )
    hidden, head = checkpoint.hidden_size, checkpoint.head_size
    query, key_value = checkpoint.attention_heads * head, checkpoint.kv_heads * head
    qkv = hidden * (query + 2 * key_value)
    attention = qkv + hidden * query
    tables = (1 if checkpoint.tied_embeddings else 2) * checkpoint.vocabulary_size * hidden
    mlp = (checkpoint.parameters - tables) / count - attention
    return lifted * (qkv + mlp / 3) / (count * (attention + mlp))


def _usable_bytes(environment: Environment) -> int:
    return max(0, environment.ram_available_bytes - _reserve_bytes(environment))


def _reserve_bytes(environment: Environment) -> int:
    return max(RESERVE_BYTES, round(RESERVE_PART * environment.ram_total_bytes))


def _name(forecast: Forecast) -> str:
    return forecast.recipe.precision.name


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
