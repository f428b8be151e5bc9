"""The fast way gives what the plain way gives, to the bit, and more where the plain one breaks."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tasks.core.child import run_child
from tasks.core.errors import RecipeRefused
from tasks.core.graph import MODEL_FILE
from tasks.core.records import Checkpoint, Precision, Profile, Recipe, Record
from tasks.variants.build_child import build, build_together
from tasks.variants.build_records import (
    BuildRequest,
    BuildResult,
    FanOutRequest,
    FanOutResult,
    ProbeRequest,
)
from tasks.variants.recipes import REFERENCE, builder_way, check_recipe, plan_recipes, recipe_slug
from tests.tiny_models import checkpoint_record, logits_of, write_tiny_checkpoint

pytestmark = pytest.mark.real

HERE = Path(__file__)
INT4, INT8 = Precision.INT4, Precision.INT8
EVERY = [*plan_recipes([INT4, INT8, Precision.FP16]), REFERENCE]
# Every block size, with and without zero points; the whole grid is in test_variants_block_codes.py.
BLOCKS = [
    Recipe(precision=precision, block_size=size, is_symmetric=symmetric, algorithm=algorithm)
    for precision, size, symmetric, algorithm in (
        (INT4, 16, False, "default"),
        (INT4, 64, True, "default"),
        (INT4, 128, False, "default"),
        (INT4, 32, True, "rtn"),
        (INT4, 32, False, "rtn"),
        (INT8, 16, True, "rtn"),
        (INT8, 64, False, "default"),
        (INT8, 128, False, "rtn"),
    )
]
MIXED = [
    *plan_recipes([INT4], profile=Profile.QUALITY),
    Recipe(precision=INT4, int8_layers=True),
    Recipe(precision=INT4, int8_head=True, int8_layers=True, accuracy_level=0),
]
# Checkpoints, and what is built of each besides.
WANTED = {
    "qwen2-tied-bfloat16": [*EVERY, MIXED[0]],
    "qwen2-untied-bfloat16": [*EVERY, *BLOCKS, *MIXED],
    "qwen3-tied-float16": EVERY,
    "llama-tied-float32": EVERY,
    "mistral-untied-bfloat16": EVERY,
    "phi3-untied-float32": EVERY,
}
# What the plain way cannot do with rows of 64 weights and a tied embedding.
ONLY_FAST = {
    "zero points, tied": Recipe(precision=INT4, is_symmetric=False),
    "an INT8 head, tied": Recipe(precision=INT4, int8_head=True),
    "one block a row": Recipe(precision=INT4, algorithm="rtn", is_symmetric=False, block_size=64),
    "a block longer than a row": Recipe(
        precision=INT4, is_symmetric=False, block_size=128, int8_layers=True
    ),
}
K_QUANT = Recipe(precision=INT4, algorithm="k_quant", is_symmetric=False)
TIED = "qwen2-tied-bfloat16"
# Mean absolute difference of logits to FP32, relative, of the tiny random models (2026-12).
ALLOWED = 0.25


class Order(Record):
    """Per checkpoint what is built together, and alone the plain way; all in one child."""

    together: list[FanOutRequest]
    alone: list[BuildRequest]


class Outcome(Record):
    """By folder; `distance` is that of the logits to FP32's, relative."""

    distance: dict[str, float]
    together: dict[str, FanOutResult]
    alone: dict[str, BuildResult]


def build_all(order: Order) -> Outcome:
    from tasks.variants.probe import probe_variant

    together = {str(r.models): build_together(r) for r in order.together}
    tied = next(request.models for request in order.together if request.models.name == TIED)
    reference = logits_of(tied / "fp32")
    distance = {}
    for recipe in ONLY_FAST.values():
        folder = tied / recipe_slug(recipe)
        probe_variant(ProbeRequest(folder=folder))
        difference = np.abs(logits_of(folder) - reference).mean()
        distance[str(folder)] = float(difference / np.abs(reference).mean())
    return Outcome(
        distance=distance,
        together=together,
        alone={str(r.model_folder): build(r) for r in order.alone},
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fast")


@pytest.fixture(scope="module")
def checkpoints(root: Path) -> dict[str, Checkpoint]:
    written = {}
    for name in WANTED:
        family, tied, dtype = name.split("-")
        folder = root / "checkpoints" / name
        write_tiny_checkpoint(folder, family, tied=tied == "tied", dtype=dtype)  # type: ignore[arg-type]  # a name of ours
        written[name] = checkpoint_record(folder)
    return written


def plain(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"builder": "plain"})


def can_be_plain(recipe: Recipe, checkpoint: Checkpoint) -> bool:
    try:
        check_recipe(plain(recipe), checkpoint)
    except RecipeRefused:
        return False
    return True


@pytest.fixture(scope="module")
def outcome(root: Path, checkpoints: dict[str, Checkpoint]) -> Outcome:
    def alone(name: str, recipe: Recipe, way: str) -> BuildRequest:
        folder = root / way / name / recipe_slug(recipe.model_copy(update={"builder": "fast"}))
        return BuildRequest(
            checkpoint=checkpoints[name],
            recipe=recipe,
            model_folder=folder,
            work_folder=root / "work" / way / name / folder.name,
        )

    order = Order(
        together=[
            FanOutRequest(
                checkpoint=checkpoints[name],
                recipes=[*recipes, *(ONLY_FAST.values() if name == TIED else ())],
                models=root / "fast" / name,
                work_folder=root / "work" / "together" / name,
            )
            for name, recipes in WANTED.items()
        ],
        alone=[
            *(
                alone(name, plain(recipe), "plain")
                for name, recipes in WANTED.items()
                for recipe in recipes
                if can_be_plain(recipe, checkpoints[name])
            ),
            *(alone(TIED, recipe, "alone") for recipe in EVERY),
            alone(TIED, K_QUANT, "alone"),
        ],
    )
    for request in order.together:
        request.models.mkdir(parents=True)
    for request in order.alone:
        request.model_folder.parent.mkdir(parents=True, exist_ok=True)
    result, _ = run_child(
        f"{HERE.stem}:build_all",
        order,
        Outcome,
        log=root / "build.log",
        deadline_s=900,
        environment={
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[2]), str(HERE.parent)]),
            "OMP_NUM_THREADS": "2",
        },
    )
    return result


def pairs() -> list[tuple[str, Recipe]]:
    return [(name, recipe) for name, recipes in WANTED.items() for recipe in recipes]


def initializers(folder: Path) -> dict[str, tuple[list[int], int, bytes]]:
    graph = onnx.load(str(folder / MODEL_FILE)).graph
    return {
        t.name: (list(t.dims), t.data_type, numpy_helper.to_array(t).tobytes())
        for t in graph.initializer
    }


def nodes(folder: Path) -> list[tuple[str, str, list[str], list[str], list[str]]]:
    graph = onnx.load(str(folder / MODEL_FILE), load_external_data=False).graph
    return sorted(
        (
            node.name.removesuffix("BlockQuantized"),
            node.op_type,
            list(node.input),
            [output.replace("GatherBlockQuantized", "Gather") for output in node.output],
            sorted(attribute.SerializeToString().hex() for attribute in node.attribute),
        )
        for node in graph.node
    )


@pytest.mark.parametrize(
    ("name", "recipe"), pairs(), ids=lambda v: recipe_slug(v) if isinstance(v, Recipe) else v
)
def test_fast_and_plain_give_the_same_weights_to_the_bit(
    root: Path, checkpoints: dict[str, Checkpoint], outcome: Outcome, name: str, recipe: Recipe
) -> None:
    if not can_be_plain(recipe, checkpoints[name]):
        assert recipe.algorithm == "rtn"
        assert not recipe.is_symmetric
        return
    fast, stock = (root / way / name / recipe_slug(recipe) for way in ("fast", "plain"))
    assert nodes(fast) == nodes(stock)
    ours, theirs = initializers(fast), initializers(stock)
    assert sorted(ours) == sorted(theirs)
    assert [key for key in ours if ours[key] != theirs[key]] == []
    for file in ("genai_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (fast / file).read_bytes() == (stock / file).read_bytes(), file


def test_alone_and_together_give_the_same_files(root: Path, outcome: Outcome) -> None:
    for recipe in EVERY:
        alone, together = (root / way / TIED / recipe_slug(recipe) for way in ("alone", "fast"))
        names = sorted(file.name for file in together.iterdir())
        assert sorted(file.name for file in alone.iterdir()) == names
        for name in names:
            assert (alone / name).read_bytes() == (together / name).read_bytes(), name


def test_k_quant_among_fast_recipes_is_built_the_plain_way_and_says_so(
    root: Path, outcome: Outcome
) -> None:
    built = outcome.alone[str(root / "alone" / TIED / "int4-b32-asym-k_quant")]
    assert (built.way, built.why_plain) == ("plain", builder_way(K_QUANT)[1])
    assert outcome.alone[str(root / "alone" / TIED / "fp16")].way == "fast"


@pytest.mark.parametrize("name", list(ONLY_FAST))
def test_what_the_plain_way_cannot_build_decodes_close_to_fp32(
    root: Path, checkpoints: dict[str, Checkpoint], outcome: Outcome, name: str
) -> None:
    recipe = ONLY_FAST[name]
    assert not can_be_plain(recipe, checkpoints[TIED])
    folder = str(root / "fast" / TIED / recipe_slug(recipe))
    assert outcome.distance[folder] <= ALLOWED


def test_embedding_reads_the_heads_codes_also_with_zero_points_and_another_precision(
    root: Path, outcome: Outcome
) -> None:
    built = outcome.together[str(root / "fast" / TIED)].built
    bits = {
        name: built[recipe_slug(r)].quantisation.embedding_bits for name, r in ONLY_FAST.items()
    }
    assert bits == {**dict.fromkeys(ONLY_FAST, 4), "an INT8 head, tied": 8}


def test_no_commit_of_a_repository_around_the_installation_is_written_down(
    root: Path, outcome: Outcome
) -> None:
    for way in ("fast", "plain"):
        model = onnx.load(str(root / way / TIED / "fp16" / MODEL_FILE), load_external_data=False)
        assert model.producer_version == metadata.version("onnxruntime-genai")


def test_each_precision_is_smaller_than_the_next(root: Path, outcome: Outcome) -> None:
    folders = [root / "fast" / TIED / recipe_slug(recipe) for recipe in EVERY]
    sizes = [(folder / f"{MODEL_FILE}.data").stat().st_size for folder in folders]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)
