"""Only options that the installed builder reads reach it: the rest it would ignore in silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.errors import RecipeRefused, ToolMissing
from tasks.core.records import Precision, Profile, Recipe
from tasks.variants import builder_options as subject
from tasks.variants.builder_options import (
    builder_options,
    key_value_arguments,
    known_option_names,
    require_known_options,
)
from tasks.variants.olive_config import olive_config, package_config
from tasks.variants.recipes import REFERENCE, plan_recipes


@pytest.fixture
def fresh_scan() -> Iterator[None]:
    known_option_names.cache_clear()
    yield
    known_option_names.cache_clear()


@pytest.mark.parametrize("name", ["int4_block_size", "int4_algo_config", "no_such_option"])
def test_name_that_the_installed_builder_ignores_is_refused(name: str) -> None:
    with pytest.raises(RecipeRefused, match=name):
        require_known_options(["block_size", name])


@pytest.mark.parametrize("profile", list(Profile))
def test_every_planned_recipe_uses_options_that_are_read(profile: Profile) -> None:
    for recipe in [*plan_recipes(["int4", "int8", "fp16"], profile=profile), REFERENCE]:
        assert set(builder_options(recipe).options) <= known_option_names()


@pytest.mark.usefixtures("fresh_scan")
def test_option_that_a_newer_builder_dropped_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base.py").write_text('size = extra_options.get("block_size", 32)')
    monkeypatch.setattr(subject, "_builder_folder", lambda: tmp_path)
    with pytest.raises(RecipeRefused, match="accuracy_level, algo_config, is_symmetric"):
        builder_options(Recipe(precision=Precision.INT4))


@pytest.mark.usefixtures("fresh_scan")
def test_missing_builder_is_told_apart_from_a_wrong_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "BUILDER_PACKAGE", "no_such_package")
    with pytest.raises(ToolMissing):
        builder_options(Recipe(precision=Precision.INT4))


@pytest.mark.usefixtures("fresh_scan")
def test_names_in_every_kind_of_look_up_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
a = extra_options.get("one", 1)
b = self.extra_options["two"]
c = "three" in kv_pairs and "four" not in self.extra_options
d = other.get("five"); e = "six" in names; print("seven")
# "eight" in extra_options
f = extra_options[
    "nine"
]; g = extra_options.get("_ten")
"""
    (tmp_path / "base.py").write_text(source)
    monkeypatch.setattr(subject, "_builder_folder", lambda: tmp_path)
    assert known_option_names() == {"one", "two", "three", "four", "nine"}


def test_mixed_precision_is_said_in_the_builders_words() -> None:
    (recipe,) = plan_recipes(["int4"], profile=Profile.QUALITY)
    arguments = key_value_arguments(builder_options(recipe).options)
    assert "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8" in arguments
    assert "is_symmetric=true" in arguments


def test_fp16_takes_the_graph_that_a_cpu_can_decode_with() -> None:
    call = builder_options(Recipe(precision=Precision.FP16))
    assert (call.execution_provider, call.options) == ("webgpu", {"fuse_qk_norm_gqa": False})


def test_olive_config_names_tools_and_paths_and_our_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"max_position_embeddings": 8192, "eos_token_id": 7}', encoding="utf-8"
    )
    config = olive_config(
        tmp_path, Recipe(precision=Precision.INT4), output=tmp_path / "o", cache=tmp_path / "c"
    )
    builder = config["passes"]["builder"]
    assert config["input_model"]["model_path"] == str(tmp_path)
    assert "onnxruntime-genai==" in builder["toolchain"]
    assert builder["genai_config"]["search"]["max_length"] == 4096
    assert builder["genai_config"]["eos_token_id"] == [7]
    assert builder["type"] in package_config()["passes"]
