"""Recipes follow from precisions, profile and overrides; what cannot work is refused at once."""

from __future__ import annotations

import itertools
import json
import typing
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import RecipeRefused
from tasks.core.records import Checkpoint, Precision, Profile, Recipe
from tasks.variants.recipes import (
    REFERENCE,
    builder_way,
    check_recipe,
    plan_recipes,
    recipe_slug,
)

INT4, INT8, FP16, FP32 = Precision.INT4, Precision.INT8, Precision.FP16, Precision.FP32


def checkpoint(folder: Path, *, tied: bool = False, hidden: int = 128) -> Checkpoint:
    (folder / "config.json").write_text(json.dumps({"intermediate_size": 256}), encoding="utf-8")
    return Checkpoint(
        name="tiny",
        path=folder,
        digest="0" * 64,
        family="qwen2",
        architecture="Qwen2ForCausalLM",
        parameters=1000,
        weight_dtype="float32",
        source_bytes=4000,
        weight_files=["model.safetensors"],
        hidden_size=hidden,
        layers=2,
        attention_heads=4,
        kv_heads=2,
        head_size=32,
        vocabulary_size=500,
        context_length=512,
        tied_embeddings=tied,
        eos_token_ids=[2],
        chat_template_file="chat_template.jinja",
        sampling={},
    )


def test_one_recipe_a_precision_smallest_first() -> None:
    assert plan_recipes([FP16, INT4, INT8, INT4]) == [
        Recipe(precision=INT4),
        Recipe(precision=INT8),
        Recipe(precision=FP16),
    ]


def test_profile_changes_int4_only() -> None:
    int4, int8 = plan_recipes([INT4, INT8], profile=Profile.SMALL)
    assert (int4.block_size, int8.block_size) == (128, 32)


def test_quality_profile_keeps_head_and_sensitive_layers_in_int8() -> None:
    (recipe,) = plan_recipes([INT4], profile=Profile.QUALITY)
    assert (recipe.algorithm, recipe.int8_head, recipe.int8_layers) == ("rtn", True, True)


def test_overrides_win_over_the_profile_and_leave_fp16_alone() -> None:
    int4, int8, fp16 = plan_recipes(
        [INT4, INT8, FP16], profile=Profile.SMALL, overrides={"block_size": 64}
    )
    assert (int4.block_size, int8.block_size, fp16) == (64, 64, Recipe(precision=FP16))


def test_int8_layers_override_stays_out_of_the_int8_recipe() -> None:
    int4, int8 = plan_recipes([INT4, INT8], overrides={"int8_layers": True})
    assert (int4.int8_layers, int8.int8_layers) == (True, False)


def test_k_quant_is_planned_with_the_zero_points_that_it_always_writes() -> None:
    (recipe,) = plan_recipes([INT4], overrides={"algorithm": "k_quant"})
    assert not recipe.is_symmetric


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"block_size": 48}, "16, 32, 64, 128, 256"),
        ({"algorithm": "gptq"}, "default, rtn, k_quant"),
        ({"is_symmetric": "perhaps"}, "true, false"),
        ({"int4_block_size": 128}, "block_size"),
    ],
)
def test_wrong_override_is_refused_with_what_is_allowed(
    overrides: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeRefused, match=said):
        plan_recipes([INT4], overrides=overrides)


@pytest.mark.parametrize(
    ("precisions", "overrides"),
    [([FP16], {"block_size": 64}), ([INT8], {"int8_head": True})],
)
def test_override_that_applies_to_nothing_is_refused(
    precisions: list[Precision], overrides: dict[str, Any]
) -> None:
    with pytest.raises(RecipeRefused, match="applies to none"):
        plan_recipes(precisions, overrides=overrides)


@pytest.mark.parametrize("precisions", [[], [FP32], [INT4, FP32]])
def test_reference_precision_or_nothing_cannot_be_planned(precisions: list[Precision]) -> None:
    with pytest.raises(RecipeRefused):
        plan_recipes(precisions)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("profile", list(Profile))
def test_planned_recipes_are_accepted(tmp_path: Path, profile: Profile, tied: bool) -> None:
    for recipe in [*plan_recipes([INT4, INT8, FP16], profile=profile), REFERENCE]:
        check_recipe(recipe, checkpoint(tmp_path, tied=tied))


@pytest.mark.parametrize(
    ("changes", "choose"),
    [({"is_symmetric": False}, "rtn"), ({"int8_head": True}, "rtn")],
)
def test_default_algorithm_is_refused_where_the_plain_way_breaks_the_tied_embedding(
    tmp_path: Path, changes: dict[str, Any], choose: str
) -> None:
    recipe = Recipe(precision=INT4, builder="plain", **changes)
    check_recipe(recipe, checkpoint(tmp_path, tied=False))
    with pytest.raises(RecipeRefused, match=choose):
        check_recipe(recipe, checkpoint(tmp_path, tied=True))
    check_recipe(recipe.model_copy(update={"builder": "fast"}), checkpoint(tmp_path, tied=True))


def test_odd_number_of_blocks_is_refused_where_zero_points_are_packed_by_row(
    tmp_path: Path,
) -> None:
    fields: dict[str, Any] = {"algorithm": "rtn", "is_symmetric": False, "block_size": 128}
    recipe = Recipe(precision=INT4, builder="plain", **fields)
    with pytest.raises(RecipeRefused, match="block_size 16 or 32 or 64"):
        check_recipe(recipe, checkpoint(tmp_path))
    check_recipe(recipe.model_copy(update={"builder": "fast"}), checkpoint(tmp_path))
    check_recipe(recipe.model_copy(update={"is_symmetric": True}), checkpoint(tmp_path))
    check_recipe(recipe.model_copy(update={"algorithm": "default"}), checkpoint(tmp_path))
    check_recipe(recipe.model_copy(update={"precision": INT8}), checkpoint(tmp_path))


def test_row_length_of_the_feed_forward_counts_too(tmp_path: Path) -> None:
    recipe = Recipe(precision=INT4, algorithm="rtn", is_symmetric=False, builder="plain")
    model = checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"intermediate_size": 96}', encoding="utf-8")
    with pytest.raises(RecipeRefused, match="rows of 96"):
        check_recipe(recipe, model)


def test_symmetric_k_quant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeRefused, match="is_symmetric=false"):
        check_recipe(Recipe(precision=INT8, algorithm="k_quant"), checkpoint(tmp_path))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(precision=FP16, block_size=64),
        Recipe(precision=FP32, is_symmetric=False),
        Recipe(precision=INT8, int8_head=True),
    ],
)
def test_option_that_means_nothing_there_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(RecipeRefused):
        check_recipe(recipe, checkpoint(tmp_path))


@pytest.mark.parametrize("precision", [INT4, FP16])
def test_way_that_was_asked_for_is_planned_named_and_told(precision: Precision) -> None:
    (recipe,) = plan_recipes([precision], builder="plain")
    assert recipe_slug(recipe).endswith("-plain")
    assert builder_way(recipe) == ("plain", "asked for")


def test_k_quant_is_left_to_the_plain_way_and_says_so() -> None:
    (int4, int8) = plan_recipes([INT4, INT8], overrides={"algorithm": "k_quant"})
    assert {builder_way(recipe)[0] for recipe in (int4, int8)} == {"plain"}
    assert "search for scales" in builder_way(int4)[1]
    assert builder_way(Recipe(precision=FP16)) == ("fast", "")


def test_slug_is_short_and_no_two_recipes_share_one() -> None:
    fields = Recipe.model_fields
    choices = [
        typing.get_args(fields[name].annotation) or (True, False)
        for name in fields
        if name != "precision"
    ]
    names = [name for name in fields if name != "precision"]
    recipes = [
        Recipe(precision=INT4, **dict(zip(names, values, strict=True)))
        for values in itertools.product(*choices)
    ]
    assert len({recipe_slug(recipe) for recipe in recipes}) == len(recipes)
    assert recipe_slug(Recipe(precision=INT4)) == "int4-b32-sym"
    assert recipe_slug(REFERENCE) == "fp32"
