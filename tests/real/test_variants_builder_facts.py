"""What Ingot works around is still so in the real builder, and the work-around changes no answer.

When one of these fails after an upgrade, the tool has changed: look at the rule that it backs.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tasks.core.child import run_child
from tasks.core.errors import RecipeRefused, VariantUnusable
from tasks.core.graph import read_graph
from tasks.core.records import Precision, Recipe, Record
from tasks.variants.build_records import ProbeRequest
from tasks.variants.builder_options import BuilderOptions, builder_options, key_value_arguments
from tasks.variants.recipes import check_recipe
from tasks.variants.tied_embedding import share_embedding
from tests.tiny_models import checkpoint_record, logits_of, write_tiny_checkpoint

pytestmark = pytest.mark.real

HERE = Path(__file__)
INT4, INT8 = Precision.INT4, Precision.INT8

# Refused by check_recipe for this tied checkpoint of 64 wide rows.
REFUSED = {
    "default-asym": Recipe(precision=INT4, is_symmetric=False),
    "default-head8": Recipe(precision=INT4, int8_head=True),
    "rtn-asym-odd": Recipe(precision=INT4, algorithm="rtn", is_symmetric=False, block_size=64),
    "k_quant-odd": Recipe(precision=INT4, algorithm="k_quant", is_symmetric=False, block_size=128),
}
# Accepted, and their embedding is rewritten. Mean relative change of logits that is allowed: what
# was quantised already stays as it is to the bit.
REWRITTEN = {
    "int4": (Recipe(precision=INT4), 0.0),
    "int4-b256": (Recipe(precision=INT4, block_size=256), 0.0),
    "int4-rtn-asym": (Recipe(precision=INT4, algorithm="rtn", is_symmetric=False), 0.0),
    "int4-rtn-head8": (Recipe(precision=INT4, algorithm="rtn", int8_head=True), 0.0),
    "int8": (Recipe(precision=INT8), 0.02),
    "int8-asym": (Recipe(precision=INT8, is_symmetric=False), 0.02),
    "int8-rtn": (Recipe(precision=INT8, algorithm="rtn"), 0.02),
    "int8-k_quant": (Recipe(precision=INT8, algorithm="k_quant", is_symmetric=False), 0.02),
}
# Sampling defaults of generation_config.json that admission reads.
SAMPLING = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "min_p",
    "typical_p",
)


class Order(Record):
    """What to try on the builder, without Olive."""

    checkpoint: Path
    folder: Path


class Findings(Record):
    """What was found, by name: how a refused recipe fails, what a rewrite changed.

    Attributes:
        embedding_bits: before and after the rewrite.
        search_refusals: what the runtime says to a sampling default; empty where it knows it.
    """

    failures: dict[str, str]
    changes: dict[str, float]
    embedding_bits: dict[str, tuple[int, int]]
    symmetric_k_quant_has_zero_points: bool
    ignored_option_block_size: int
    search_refusals: dict[str, str]


def find_out(order: Order) -> Findings:
    failures, changes, bits = {}, {}, {}
    for name, recipe in REFUSED.items():
        failures[name] = how_it_fails(order, name, builder_options(recipe))
    for name, (recipe, _) in REWRITTEN.items():
        folder = run_builder(order, name, builder_options(recipe))
        before, bits_before = logits_of(folder), read_graph(folder).embedding_bits
        share_embedding(folder)
        after = logits_of(folder)
        changes[name] = float(np.abs(after - before).mean() / np.abs(before).mean())
        bits[name] = (bits_before, read_graph(folder).embedding_bits)
    k_quant = builder_options(Recipe(precision=INT4, algorithm="k_quant"))
    ignored = BuilderOptions(
        precision="int4", execution_provider="cpu", options={"int4_block_size": 128}
    )
    return Findings(
        failures=failures,
        changes=changes,
        embedding_bits=bits,
        symmetric_k_quant_has_zero_points=any(
            matrix.has_zero_points
            for matrix in read_graph(run_builder(order, "k_quant", k_quant)).matrices
        ),
        ignored_option_block_size=read_graph(run_builder(order, "ignored", ignored))
        .matrices[0]
        .block_size,
        search_refusals={key: search_refusal(order.folder / key, key) for key in SAMPLING},
    )


def search_refusal(folder: Path, key: str) -> str:
    import onnxruntime_genai as og

    folder.mkdir()
    content = {"model": {"context_length": 8}, "search": {key: key == "do_sample" or 1}}
    (folder / "genai_config.json").write_text(json.dumps(content))
    try:
        og.Config(str(folder))
    except RuntimeError as problem:
        return str(problem)
    return ""


def how_it_fails(order: Order, name: str, call: BuilderOptions) -> str:
    from tasks.variants.probe import probe_variant

    try:
        folder = run_builder(order, name, call)
    except ValueError as problem:
        return f"does not build: {problem}"
    try:
        probe_variant(ProbeRequest(folder=folder))
    except VariantUnusable as problem:
        return f"does not run: {problem}"
    return "works"


def run_builder(order: Order, name: str, call: BuilderOptions) -> Path:
    from onnxruntime_genai.models import builder

    source, target = str(order.checkpoint), order.folder / name
    with tempfile.TemporaryDirectory() as cache:
        place = (source, source, str(target), call.precision, call.execution_provider, cache)
        options = builder.parse_extra_options(*place, key_value_arguments(call.options))
        builder.create_model(*place, **options)
    return target


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("facts") / "checkpoint", tied=True)


@pytest.fixture(scope="module")
def findings(checkpoint: Path) -> Findings:
    result, _ = run_child(
        f"{HERE.stem}:find_out",
        Order(checkpoint=checkpoint, folder=checkpoint.parent),
        Findings,
        log=checkpoint.parent / "facts.log",
        deadline_s=300,
        environment={
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[2]), str(HERE.parent)]),
            "OMP_NUM_THREADS": "1",
        },
    )
    return result


def test_min_p_and_typical_p_are_fatal_to_the_runtime_and_the_others_are_not(
    findings: Findings,
) -> None:
    refused = {key: text for key, text in findings.search_refusals.items() if text}
    assert list(refused) == ["min_p", "typical_p"]
    assert all("Unknown value" in text for text in refused.values())


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_recipe_really_does_not_work(
    checkpoint: Path, findings: Findings, name: str
) -> None:
    plain = REFUSED[name].model_copy(update={"builder": "plain"})
    with pytest.raises(RecipeRefused):
        check_recipe(plain, checkpoint_record(checkpoint))
    assert findings.failures[name].startswith("does not"), findings.failures[name]


def test_k_quant_writes_zero_points_whatever_it_is_told(findings: Findings) -> None:
    assert findings.symmetric_k_quant_has_zero_points


def test_old_option_names_are_ignored_in_silence(findings: Findings) -> None:
    assert findings.ignored_option_block_size == 32


@pytest.mark.parametrize("name", list(REWRITTEN))
def test_sharing_the_heads_rows_changes_no_answer(
    checkpoint: Path, findings: Findings, name: str
) -> None:
    recipe, allowed = REWRITTEN[name]
    check_recipe(recipe, checkpoint_record(checkpoint))
    assert findings.changes[name] <= allowed


@pytest.mark.parametrize("name", [name for name in REWRITTEN if name.startswith("int8")])
def test_int8_embedding_was_fp32_before_and_is_int8_after(findings: Findings, name: str) -> None:
    assert findings.embedding_bits[name] == (32, 8)
