"""A built graph is compared with its recipe matrix by matrix, on graphs written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.core.errors import VariantUnusable
from tasks.core.graph import (
    Graph,
    WeightMatrix,
    quantisation_of,
    read_graph,
    require_recipe,
)
from tasks.core.records import Precision, Recipe
from tasks.variants.tied_embedding import share_embedding

INT4 = Recipe(precision=Precision.INT4)
INT8 = Recipe(precision=Precision.INT8)
HEAD = "/lm_head/MatMul_Q4"
VALUE = "/model/layers.0/attn/v_proj/MatMul_Q8"
OUTPUT = "/model/layers.0/attn/o_proj/MatMul_Q8"

ROWS, LENGTH, BLOCK = 40, 64, 32


def matrix(node: str = "/model/layers.0/attn/o_proj/MatMul_Q4", **changes: Any) -> WeightMatrix:
    usual: dict[str, Any] = {"bits": 4, "block_size": 32, "accuracy_level": 4}
    return WeightMatrix(node=node, **{**usual, **changes})


def graph(*matrices: WeightMatrix) -> Graph:
    return Graph(matrices=list(matrices), embedding_bits=4)


def test_graph_as_asked_passes_and_is_counted() -> None:
    built = graph(matrix(), matrix(HEAD))
    require_recipe(built, INT4)
    assert quantisation_of(built).bits == {4: 2}


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 8},
        {"block_size": 128},
        {"has_zero_points": True},
        {"accuracy_level": 0},
        {"bits": 32, "block_size": 0},
    ],
    ids=str,
)
def test_one_matrix_unlike_the_recipe_makes_the_variant_unusable(wrong: dict[str, Any]) -> None:
    with pytest.raises(VariantUnusable, match="o_proj"):
        require_recipe(graph(matrix(HEAD), matrix(**wrong)), INT4)


def test_missing_zero_points_are_noticed() -> None:
    asymmetric = INT4.model_copy(update={"is_symmetric": False})
    with pytest.raises(VariantUnusable, match="zero points"):
        require_recipe(graph(matrix()), asymmetric)


def test_int8_head_is_wanted_only_where_asked_for() -> None:
    mixed = graph(matrix(), matrix(HEAD, bits=8))
    require_recipe(mixed, INT4.model_copy(update={"int8_head": True}))
    with pytest.raises(VariantUnusable, match="lm_head"):
        require_recipe(mixed, INT4)
    with pytest.raises(VariantUnusable, match="lm_head"):
        require_recipe(graph(matrix(), matrix(HEAD)), INT4.model_copy(update={"int8_head": True}))


def test_int8_layers_may_be_the_sensitive_ones_only() -> None:
    recipe = INT4.model_copy(update={"int8_layers": True})
    require_recipe(graph(matrix(), matrix(VALUE, bits=8)), recipe)
    with pytest.raises(VariantUnusable, match="o_proj"):
        require_recipe(graph(matrix(VALUE, bits=8), matrix(OUTPUT, bits=8)), recipe)
    with pytest.raises(VariantUnusable, match="no layer"):
        require_recipe(graph(matrix()), recipe)


@pytest.mark.parametrize(("recipe", "bits"), [(Precision.FP16, 16), (Precision.FP32, 32)], ids=str)
def test_float_graph_has_no_quantised_matrix(recipe: Precision, bits: int) -> None:
    plain = WeightMatrix(node="/lm_head/MatMul", bits=bits)
    require_recipe(graph(plain), Recipe(precision=recipe))
    with pytest.raises(VariantUnusable):
        require_recipe(graph(plain, matrix()), Recipe(precision=recipe))


def test_graph_without_any_matrix_is_unusable() -> None:
    with pytest.raises(VariantUnusable, match="no weight matrix"):
        require_recipe(graph(), INT4)


# ---------------------------------------------------------------- on files


def write_int8_model(folder: Path, *, tied: bool) -> Path:
    """Write an embedding, an 8-bit language head and nothing between, as the builder names them."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(ROWS, LENGTH)).astype(np.float32)
    codes, scales = quantise(table if tied else rng.normal(size=table.shape).astype(np.float32))
    tensors = [
        numpy_helper.from_array(table, "model.embed_tokens.weight"),
        numpy_helper.from_array(codes, "lm_head.MatMul.weight_Q8"),
        numpy_helper.from_array(scales, "lm_head.MatMul.weight_scales"),
    ]
    nodes = [
        helper.make_node("Gather", ["model.embed_tokens.weight", "input_ids"], ["hidden"]),
        helper.make_node(
            "MatMulNBits",
            ["hidden", "lm_head.MatMul.weight_Q8", "lm_head.MatMul.weight_scales"],
            ["logits"],
            name="/lm_head/MatMul_Q8",
            domain="com.microsoft",
            K=LENGTH,
            N=ROWS,
            bits=8,
            block_size=BLOCK,
            accuracy_level=4,
        ),
    ]
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "n", ROWS])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(
        helper.make_model(body, opset_imports=opsets, ir_version=10),
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    return folder


def quantise(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    blocks = table.reshape(ROWS, -1, BLOCK)
    scales = (np.abs(blocks).max(axis=2) / 127).astype(np.float32)
    codes = np.clip(np.round(blocks / scales[..., None]) + 128, 0, 255).astype(np.uint8)
    return codes, scales


def logits(folder: Path) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(str(folder / "model.onnx"))
    (result,) = session.run(None, {"input_ids": np.arange(ROWS, dtype=np.int64)[None]})
    return np.asarray(result)


def test_float_embedding_is_read_as_such(tmp_path: Path) -> None:
    built = read_graph(write_int8_model(tmp_path, tied=True))
    require_recipe(built, INT8)
    assert built.embedding_bits == 32


def test_tied_embedding_comes_to_share_the_heads_bytes(tmp_path: Path) -> None:
    folder = write_int8_model(tmp_path, tied=True)
    size, before = (folder / "model.onnx.data").stat().st_size, logits(folder)
    assert share_embedding(folder)
    assert read_graph(folder).embedding_bits == 8
    assert (folder / "model.onnx.data").stat().st_size == size - ROWS * LENGTH * 4
    np.testing.assert_allclose(logits(folder), before, atol=0.02 * np.abs(before).max())


def test_embedding_that_is_another_matrix_is_left_alone(tmp_path: Path) -> None:
    folder = write_int8_model(tmp_path, tied=False)
    before = (folder / "model.onnx.data").read_bytes()
    assert not share_embedding(folder)
    assert read_graph(folder).embedding_bits == 32
    assert (folder / "model.onnx.data").read_bytes() == before


def test_one_foreign_row_at_the_end_is_enough_to_leave_it_alone(tmp_path: Path) -> None:
    folder = write_int8_model(tmp_path, tied=True)
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    table = next(t for t in model.graph.initializer if t.name == "model.embed_tokens.weight")
    place = {entry.key: entry.value for entry in table.external_data}
    data = bytearray((folder / "model.onnx.data").read_bytes())
    end = int(place["offset"]) + int(place["length"])
    data[end - 4 : end] = np.float32(9.0).tobytes()
    (folder / "model.onnx.data").write_bytes(data)
    assert not share_embedding(folder)


def test_truncated_data_file_is_noticed_before_anything_loads(tmp_path: Path) -> None:
    folder = write_int8_model(tmp_path, tied=True)
    data = folder / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(VariantUnusable, match="incomplete"):
        read_graph(folder)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    folder = write_int8_model(tmp_path, tied=True)
    (folder / name).unlink()
    with pytest.raises(VariantUnusable, match=name):
        read_graph(folder)
