"""Every family in every precision builds, reads back as asked and decodes; faults are caught."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tasks.core.child import run_child
from tasks.core.errors import IngotError, VariantUnusable
from tasks.core.graph import read_graph, require_recipe
from tasks.core.records import Precision, Profile, Recipe, Record
from tasks.variants.build_child import build, collect_model, run_olive
from tasks.variants.build_records import BuildRequest, BuildResult, ProbeRequest, ProbeResult
from tasks.variants.olive_config import olive_config
from tasks.variants.recipes import REFERENCE, check_recipe, plan_recipes
from tests.tiny_models import checkpoint_record, logits_of, write_tiny_checkpoint

pytestmark = pytest.mark.real

HERE = Path(__file__)
CHECKPOINTS = ["qwen2-tied", "qwen2-untied", "llama-untied", "phi3-untied"]
PLAIN = {
    recipe.precision: recipe for recipe in [*plan_recipes(["int4", "int8", "fp16"]), REFERENCE]
}
SPECIAL = {
    ("qwen2-untied", "b128-asym"): Recipe(
        precision=Precision.INT4, block_size=128, is_symmetric=False
    ),
    ("qwen2-tied", "quality"): plan_recipes(["int4"], profile=Profile.QUALITY)[0],
    ("qwen2-tied", "int8-asym"): Recipe(precision=Precision.INT8, is_symmetric=False),
    ("qwen2-tied", "k_quant"): plan_recipes(["int4"], overrides={"algorithm": "k_quant"})[0],
}
# Mean absolute difference of logits, relative; measured 0.0006, 0.011 and 0.14 at most (2026-11).
ALLOWED = {"fp16": 0.002, "int8": 0.02, "int4": 0.25, "fp32": 1e-6}


class Batch(Record):
    """Builds for one child, because importing Olive costs more than a tiny build.

    Attributes:
        raw: Olive configurations that are run as they are, by the folder for their model.
    """

    builds: list[BuildRequest]
    raw: dict[str, dict[str, Any]]


class BatchResult(Record):
    """By folder: what was built, how it decoded and its distance to FP32; by folder: refusals."""

    built: dict[str, BuildResult]
    decoded: dict[str, ProbeResult]
    distance: dict[str, float]
    refused: dict[str, str]
    own_pass_may_work: bool


def build_batch(batch: Batch) -> BatchResult:
    from tasks.variants.olive_pass import own_pass_may_work
    from tasks.variants.probe import probe_variant

    result = BatchResult(
        built={}, decoded={}, distance={}, refused={}, own_pass_may_work=own_pass_may_work()
    )
    for request in batch.builds:
        name = str(request.model_folder)
        result.built[name] = build(request)
        result.decoded[name] = probe_variant(ProbeRequest(folder=request.model_folder))
        reference = logits_of(request.model_folder.with_name("fp32"))
        difference = np.abs(logits_of(request.model_folder) - reference).mean()
        result.distance[name] = float(difference / np.abs(reference).mean())
    for folder, config in batch.raw.items():
        try:
            run_olive(config)
            collect_model(Path(config["output_dir"]), Path(folder))
        except IngotError as problem:
            result.refused[folder] = f"{type(problem).__name__}: {problem}"
    return result


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


@pytest.fixture(scope="module")
def checkpoints(root: Path) -> dict[str, Path]:
    written = {}
    for name in CHECKPOINTS:
        family, tied = name.split("-")
        folder = root / "checkpoints" / name
        written[name] = write_tiny_checkpoint(folder, family, tied=tied == "tied")  # type: ignore[arg-type]  # a name of ours
    return written


@pytest.fixture(scope="module")
def batch(root: Path, checkpoints: dict[str, Path]) -> BatchResult:
    # FP32 first: the others are compared with it.
    wanted = {
        (checkpoint, precision.value): PLAIN[precision]
        for checkpoint in CHECKPOINTS
        for precision in (Precision.FP32, Precision.FP16, Precision.INT8, Precision.INT4)
    } | SPECIAL
    requests = [
        BuildRequest(
            checkpoint=checkpoint_record(checkpoints[checkpoint]),
            recipe=recipe,
            model_folder=root / checkpoint / name,
            work_folder=root / "work" / f"{checkpoint}-{name}",
        )
        for (checkpoint, name), recipe in wanted.items()
    ]
    for request in requests:
        request.model_folder.parent.mkdir(exist_ok=True)
        check_recipe(request.recipe, request.checkpoint)
    result, _ = run_child(
        f"{HERE.stem}:build_batch",
        Batch(builds=requests, raw=faulty_configurations(root, checkpoints["qwen2-tied"])),
        BatchResult,
        log=root / "batch.log",
        deadline_s=500,
        environment={
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[2]), str(HERE.parent)]),
            "OMP_NUM_THREADS": "1",
        },
    )
    return result


def faulty_configurations(root: Path, checkpoint: Path) -> dict[str, dict[str, Any]]:
    def configuration(name: str, recipe: Recipe, **changes: Any) -> dict[str, Any]:
        plain = recipe.model_copy(update={"builder": "plain"})
        config = olive_config(
            checkpoint, plain, output=root / "raw" / name, cache=root / "raw" / f"{name}-cache"
        )
        config["passes"]["builder"].update(changes)
        return config

    return {
        str(root / "fp16-cpu-graph"): configuration(
            "fp16", PLAIN[Precision.FP16], builder_ep="cpu", options={}
        ),
        str(root / "ignored-option"): configuration(
            "option", PLAIN[Precision.INT4], options={"int4_block_size": 128}
        ),
        str(root / "builder-fails"): configuration(
            "fails", PLAIN[Precision.INT8], options={"use_qdq": True}
        ),
    }


def probe(folder: Path) -> ProbeResult:
    result, _ = run_child(
        "tasks.variants.probe:probe_variant",
        ProbeRequest(folder=folder),
        ProbeResult,
        log=folder.with_suffix(".log"),
        deadline_s=120,
        environment={"PYTHONPATH": str(HERE.parents[2])},
    )
    return result


@pytest.fixture
def copy(root: Path, batch: BatchResult, tmp_path: Path) -> Path:
    """Give a copy of a good FP32 model to damage."""
    return Path(shutil.copytree(root / "qwen2-tied" / "fp32", tmp_path / "copy"))


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_variant_decodes_close_to_fp32(
    root: Path, batch: BatchResult, checkpoint: str, precision: Precision
) -> None:
    folder = str(root / checkpoint / precision.value)
    assert len(batch.decoded[folder].tokens) >= 3
    assert batch.distance[folder] <= ALLOWED[precision.value]


@pytest.mark.parametrize(("checkpoint", "name"), list(SPECIAL))
def test_special_recipe_decodes_close_to_fp32(
    root: Path, batch: BatchResult, checkpoint: str, name: str
) -> None:
    recipe = SPECIAL[checkpoint, name]
    assert batch.distance[str(root / checkpoint / name)] <= ALLOWED[recipe.precision.value]


def test_block_size_and_zero_points_are_read_back_as_asked(root: Path, batch: BatchResult) -> None:
    built = batch.built[str(root / "qwen2-untied" / "b128-asym")].quantisation
    assert (set(built.block_sizes), built.symmetric, set(built.bits)) == ({128}, False, {4})


def test_quality_profile_mixes_four_and_eight_bits(root: Path, batch: BatchResult) -> None:
    built = batch.built[str(root / "qwen2-tied" / "quality")].quantisation
    assert set(built.bits) == {4, 8}
    assert built.embedding_bits == 8


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("qwen2-tied", {"int4": 4, "int8": 8, "fp16": 16, "fp32": 32}),
        ("qwen2-untied", {"int4": 32, "int8": 32, "fp16": 16, "fp32": 32}),
    ],
)
def test_only_a_tied_embedding_is_quantised(
    root: Path, batch: BatchResult, checkpoint: str, expected: dict[str, int]
) -> None:
    for name, bits in expected.items():
        built = batch.built[str(root / checkpoint / name)].quantisation
        assert built.embedding_bits == bits


def test_tied_int8_is_smaller_than_its_source_in_bf16(
    root: Path, checkpoints: dict[str, Path], batch: BatchResult
) -> None:
    source = checkpoint_record(checkpoints["qwen2-tied"]).source_bytes / 2
    assert (root / "qwen2-tied" / "int8" / "model.onnx.data").stat().st_size < 0.75 * source


def test_finished_folder_names_no_path_of_this_machine(root: Path, batch: BatchResult) -> None:
    for folder in batch.built:
        for file in Path(folder).iterdir():
            assert str(root).encode() not in file.read_bytes(), file


def test_fp16_with_the_cpu_graph_dies_in_the_probe(root: Path, batch: BatchResult) -> None:
    with pytest.raises(VariantUnusable, match="cannot run the built model"):
        probe(root / "fp16-cpu-graph")


def test_option_that_the_builder_would_ignore_is_refused_inside_olive_too(
    root: Path, batch: BatchResult
) -> None:
    refusal = batch.refused[str(root / "ignored-option")]
    assert refusal.startswith("RecipeRefused")
    assert "int4_block_size" in refusal


def test_failure_that_olive_swallows_is_reported_with_its_cause(
    root: Path, batch: BatchResult
) -> None:
    refusal = batch.refused[str(root / "builder-fails")]
    assert refusal.startswith("ToolFailed")
    assert "int8 precision does not support the QDQ format" in refusal


def test_olives_own_pass_still_cannot_drive_this_builder(batch: BatchResult) -> None:
    assert not batch.own_pass_may_work


def test_graph_with_other_bits_than_the_recipe_is_unusable(root: Path, batch: BatchResult) -> None:
    with pytest.raises(VariantUnusable, match="8 bits"):
        require_recipe(read_graph(root / "qwen2-tied" / "int8"), PLAIN[Precision.INT4])


def test_truncated_weights_are_caught_by_reading_back_and_by_the_probe(copy: Path) -> None:
    data = copy / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(VariantUnusable, match="incomplete"):
        read_graph(copy)
    with pytest.raises(VariantUnusable, match="cannot run"):
        probe(copy)


def test_missing_chat_template_is_caught_by_the_probe(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(VariantUnusable, match="cannot run"):
        probe(copy)


def test_logits_that_are_not_finite_are_caught_by_the_probe(copy: Path) -> None:
    graph = onnx.load(str(copy / "model.onnx"), load_external_data=False).graph
    norm = next(t for t in graph.initializer if "final_norm" in t.name)
    place = {entry.key: int(entry.value) for entry in norm.external_data if entry.key != "location"}
    with (copy / "model.onnx.data").open("r+b") as data:
        data.seek(place["offset"])
        data.write(np.full(place["length"] // 4, np.nan, dtype=np.float32).tobytes())
    with pytest.raises(VariantUnusable, match="not finite"):
        probe(copy)
