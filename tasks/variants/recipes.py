"""Which recipes are built for which precisions, and which are refused before anything is spent.

Decided from a recipe and a checkpoint's shape alone; how a recipe is said to the builder belongs
to `builder_options.py`, and nothing here runs a tool.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from tasks.core.errors import RecipeRefused
from tasks.core.records import (
    QUANTISED,
    SHIPPABLE,
    BuilderWay,
    Checkpoint,
    Precision,
    Profile,
    Recipe,
)

REFERENCE = Recipe(precision=Precision.FP32)

# Mean KL divergence to FP32 on a trained 1 M model, and size of a 0.5 B one (2026-11): balanced
# 0.022 and 318 MB, quality 0.0065 and 429 MB, small 0.037 and 272 MB. `quality` quantises by rtn
# because the default algorithm with an INT8 head does not load when the embedding is tied.
_PROFILES: dict[Profile, dict[str, Any]] = {
    Profile.BALANCED: {},
    Profile.QUALITY: {"algorithm": "rtn", "int8_head": True, "int8_layers": True},
    Profile.SMALL: {"block_size": 128},
}
_INT4_ONLY = ("int8_head", "int8_layers")
_FIELDS = tuple(name for name in Recipe.model_fields if name not in ("precision", "builder"))
_BLOCK_SIZES = typing.get_args(Recipe.model_fields["block_size"].annotation)


def plan_recipes(
    precisions: Iterable[Precision],
    *,
    profile: Profile = Profile.BALANCED,
    overrides: Mapping[str, Any] | None = None,
    builder: BuilderWay = "fast",
) -> list[Recipe]:
    """Choose one recipe for each precision, smallest first.

    Args:
        precisions: what to build; FP32 is not among them, it is built as the reference anyway.
        profile: INT4 defaults.
        overrides: recipe fields that replace defaults, for INT4 and INT8.
        builder: which way to build them.

    Raises:
        RecipeRefused: no precision, FP32, or an override that is unknown, has a value that is not
            allowed, or applies to none of the precisions.
    """
    wanted = set(precisions)
    changes = dict(overrides or {})
    if not wanted or not wanted <= set(SHIPPABLE):
        raise RecipeRefused(
            f"cannot plan for {', '.join(sorted(wanted)) or 'no precision at all'}",
            expected=f"one or more of {', '.join(SHIPPABLE)}",
            next_step="leave fp32 out: it is the reference and is built for every release",
        )
    _require_applicable(changes, wanted)
    planned = [
        _plan_one(precision, profile, changes) for precision in SHIPPABLE if precision in wanted
    ]
    return [recipe.model_copy(update={"builder": builder}) for recipe in planned]


def builder_way(recipe: Recipe) -> tuple[BuilderWay, str]:
    """Tell which way a recipe is built, and why where it is the plain one."""
    if recipe.builder == "plain":
        return "plain", "asked for"
    if recipe.precision in QUANTISED and recipe.algorithm == "k_quant":
        return "plain", "k_quant is ONNX Runtime's own search for scales"
    return "fast", ""


def _require_applicable(changes: Mapping[str, Any], wanted: set[Precision]) -> None:
    for name in changes:
        if name not in _FIELDS:
            raise RecipeRefused(
                f"a recipe has no field {name!r}", expected=f"one of {', '.join(_FIELDS)}"
            )
        takers = (Precision.INT4,) if name in _INT4_ONLY else QUANTISED
        if not wanted & set(takers):
            raise RecipeRefused(
                f"{name} applies to none of {', '.join(sorted(wanted))}",
                expected=f"a precision among {', '.join(takers)}",
                next_step=f"remove {name}, or add one of these precisions",
            )


def _plan_one(precision: Precision, profile: Profile, changes: Mapping[str, Any]) -> Recipe:
    if precision not in QUANTISED:
        return Recipe(precision=precision)
    fields = dict(_PROFILES[profile]) if precision is Precision.INT4 else {}
    fields.update(
        (name, value)
        for name, value in changes.items()
        if precision is Precision.INT4 or name not in _INT4_ONLY
    )
    if fields.get("algorithm") == "k_quant":
        fields.setdefault("is_symmetric", False)  # it always writes zero points
    try:
        return Recipe(precision=precision, **fields)
    except ValidationError as problem:
        raise _refuse_value(problem) from problem


def _refuse_value(problem: ValidationError) -> RecipeRefused:
    first = problem.errors()[0]
    name = str(first["loc"][0])
    allowed = typing.get_args(Recipe.model_fields[name].annotation) or (True, False)
    return RecipeRefused(
        f"{name} cannot be {first['input']!r}",
        expected=f"one of {', '.join(str(value).lower() for value in allowed)}",
    )


def recipe_slug(recipe: Recipe) -> str:
    """Give a short name for files and logs, such as `int4-b32-sym`; unique among valid recipes."""
    way = "" if recipe.builder == "fast" else recipe.builder
    if recipe.precision not in QUANTISED:
        return "-".join(part for part in (recipe.precision.value, way) if part)
    parts = [
        recipe.precision.value,
        f"b{recipe.block_size}",
        "sym" if recipe.is_symmetric else "asym",
        recipe.algorithm if recipe.algorithm != "default" else "",
        f"acc{recipe.accuracy_level}" if recipe.accuracy_level != REFERENCE.accuracy_level else "",
        "head8" if recipe.int8_head else "",
        "layers8" if recipe.int8_layers else "",
        way,
    ]
    return "-".join(part for part in parts if part)


def check_recipe(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Refuse what is known not to build or not to load.

    Every rule was met on the real builder (onnxruntime-genai 0.18.0, onnxruntime 1.31.0, 2026-11,
    all 5 block sizes, 3 algorithms, symmetric or not, tied or not, on a two-layer Qwen2). A block
    longer than a row is not refused: it is padded, builds, loads and gives the right logits. What
    the plain way breaks in a tied embedding or cannot pack, the fast way does right.

    Raises:
        RecipeRefused: with what to choose instead.
    """
    for refusal in _refusals(recipe, checkpoint):
        raise refusal


def _refusals(recipe: Recipe, checkpoint: Checkpoint) -> Iterator[RecipeRefused]:
    yield from _out_of_place(recipe)
    yield from _needless_symmetry(recipe)
    if recipe.precision is Precision.INT4 and builder_way(recipe)[0] == "plain":
        yield from _unloadable_when_tied(recipe, checkpoint)
        yield from _unpackable_zero_points(recipe, checkpoint)


def _out_of_place(recipe: Recipe) -> Iterator[RecipeRefused]:
    if recipe.precision not in QUANTISED and _changed_fields(recipe):
        yield RecipeRefused(
            f"{recipe.precision.value} takes no quantisation options",
            got=", ".join(_changed_fields(recipe)),
            next_step="leave them at their defaults",
        )
    if recipe.precision is Precision.INT8 and (recipe.int8_head or recipe.int8_layers):
        yield RecipeRefused(
            "int8_head and int8_layers are for int4 recipes: an int8 one has both anyway",
            next_step="leave them out",
        )


def _changed_fields(recipe: Recipe) -> list[str]:
    plain = Recipe(precision=recipe.precision)
    return [name for name in _FIELDS if getattr(recipe, name) != getattr(plain, name)]


def _needless_symmetry(recipe: Recipe) -> Iterator[RecipeRefused]:
    # Measured: with k_quant all MatMulNBits nodes have zero points whatever is_symmetric says.
    if recipe.precision in QUANTISED and recipe.algorithm == "k_quant" and recipe.is_symmetric:
        yield RecipeRefused(
            "algorithm k_quant always writes zero points, is_symmetric=true would be ignored",
            next_step="choose is_symmetric=false, or algorithm rtn",
        )


def _unloadable_when_tied(recipe: Recipe, checkpoint: Checkpoint) -> Iterator[RecipeRefused]:
    """Yield what the default algorithm breaks in the embedding that reads the head's weights."""
    if not checkpoint.tied_embeddings or recipe.algorithm != "default":
        return
    if not recipe.is_symmetric:
        # ONNX Runtime's words: Type (tensor(uint8)) of output arg (/model/embed_tokens/Reshape/...
        yield RecipeRefused(
            "is_symmetric=false with the default algorithm gives an int4 model that does not load"
            " when the embedding is tied to the language head, as it is here",
            next_step="choose is_symmetric=true, or algorithm rtn",
        )
    if recipe.int8_head:
        # Its words: Node input 'lm_head.MatMul.weight_Q8G32' is not a graph input, initializer ...
        yield RecipeRefused(
            "int8_head with the default algorithm gives an int4 model that does not load when the"
            " embedding is tied to the language head, as it is here",
            next_step="choose algorithm rtn",
        )


def _unpackable_zero_points(recipe: Recipe, checkpoint: Checkpoint) -> Iterator[RecipeRefused]:
    # Two 4-bit zero points share a byte, and rtn and k_quant pack them without padding a row:
    # "cannot reshape array of size 64 into shape (128,newaxis)" for every odd number of blocks.
    if recipe.is_symmetric or recipe.algorithm == "default":
        return
    lengths = _row_lengths(checkpoint)
    if odd := [length for length in lengths if _has_odd_blocks(length, recipe.block_size)]:
        fitting = [
            str(size)
            for size in _BLOCK_SIZES
            if not any(_has_odd_blocks(length, size) for length in lengths)
        ]
        yield RecipeRefused(
            f"{recipe.algorithm} cannot pack int4 zero points for rows of {odd[0]} weights in"
            f" blocks of {recipe.block_size}: their number is odd",
            next_step=f"choose block_size {' or '.join(fitting)}"
            if fitting
            else "choose is_symmetric=true with algorithm rtn",
        )


def _has_odd_blocks(length: int, block_size: int) -> bool:
    return -(-length // block_size) % 2 == 1


def _row_lengths(checkpoint: Checkpoint) -> list[int]:
    """Give the input sizes of the matrices: of attention and head, of o_proj, of down_proj."""
    lengths = {checkpoint.hidden_size, checkpoint.attention_heads * checkpoint.head_size}
    config = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
    if isinstance(inner := config.get("intermediate_size"), int):
        lengths.add(inner)
    return sorted(lengths)
