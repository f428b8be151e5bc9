"""What a built model.onnx really holds, read from the graph and compared with its recipe.

Loads the graph without its weights. Whether the numbers in it are any good belongs to the
examination. Runs in children only: importing onnx takes long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

from tasks.core.errors import VariantUnusable
from tasks.core.records import QUANTISED, Precision, Quantisation, Recipe, Record

MODEL_FILE = "model.onnx"
LANGUAGE_HEAD = "/lm_head/"
# The builder's `mixed_layers` group (0.18).
SENSITIVE = ("/qkv_proj/", "/v_proj/", "/down_proj/")

_FLOAT_BITS = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
}


class WeightMatrix(Record):
    """One matrix multiplication by a constant.

    Attributes:
        bits: 4 or 8 for MatMulNBits, 16 or 32 for MatMul.
        block_size, accuracy_level: of MatMulNBits; 0 where there is none.
    """

    node: str
    bits: int
    block_size: int = 0
    accuracy_level: int = 0
    has_zero_points: bool = False


class Graph(Record):
    """The parts of a graph that a recipe decides."""

    matrices: list[WeightMatrix]
    embedding_bits: int

    @property
    def quantised(self) -> list[WeightMatrix]:
        """The matrices that are MatMulNBits nodes."""
        return [matrix for matrix in self.matrices if matrix.block_size]


def read_graph(folder: Path) -> Graph:
    """Read a built folder's model.onnx, and check that its data file has every byte it names.

    Raises:
        VariantUnusable: a file is missing or short, or there is no embedding.
    """
    file = folder / MODEL_FILE
    if not file.is_file():
        raise VariantUnusable(
            f"{MODEL_FILE} is missing", got=", ".join(sorted(f.name for f in folder.iterdir()))
        )
    graph = onnx.load(str(file), load_external_data=False).graph
    _require_complete_data(graph, folder)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return Graph(
        matrices=[
            matrix for node in graph.node if (matrix := _weight_matrix(node, types)) is not None
        ],
        embedding_bits=_embedding_bits(graph, types),
    )


def _require_complete_data(graph: onnx.GraphProto, folder: Path) -> None:
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        file = folder / place["location"]
        size = file.stat().st_size if file.is_file() else 0
        end = int(place.get("offset", 0)) + int(place["length"])
        if size < end:
            raise VariantUnusable(
                f"{file.name} is incomplete: {tensor.name} lies past its end",
                expected=f"at least {end} bytes",
                got=f"{size}",
            )


def _weight_matrix(node: onnx.NodeProto, types: dict[str, int]) -> WeightMatrix | None:
    if node.op_type == "MatMul" and node.input[1] in types:
        return WeightMatrix(node=node.name, bits=_FLOAT_BITS[types[node.input[1]]])
    if node.op_type != "MatMulNBits":
        return None
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    return WeightMatrix(
        node=node.name,
        bits=numbers["bits"],
        block_size=numbers["block_size"],
        accuracy_level=numbers.get("accuracy_level", 0),
        has_zero_points=len(node.input) > 3 and node.input[3] != "",
    )


def _embedding_bits(graph: onnx.GraphProto, types: dict[str, int]) -> int:
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "GatherBlockQuantized":
            return next(int(a.i) for a in node.attribute if a.name == "bits")
        if node.op_type == "Gather" and node.input[1] == "input_ids":
            table = node.input[0]
            while table in producers:  # tied FP16 and FP32: the head's matrix, transposed
                table = producers[table].input[0]
            return _FLOAT_BITS[types[table]]
    raise VariantUnusable(f"{MODEL_FILE} looks up no embedding by input_ids")


def quantisation_of(graph: Graph) -> Quantisation:
    """Count what was read, as a record that travels."""
    return Quantisation(
        bits=dict(Counter(matrix.bits for matrix in graph.quantised)),
        block_sizes=dict(Counter(matrix.block_size for matrix in graph.quantised)),
        symmetric=not any(matrix.has_zero_points for matrix in graph.quantised),
        embedding_bits=graph.embedding_bits,
    )


def require_recipe(graph: Graph, recipe: Recipe) -> None:
    """Compare a graph with what was asked for.

    Raises:
        VariantUnusable: a matrix has other bits, blocks, zero points or compute type, or an
            8-bit one is where none was asked for, or is not where one was.
    """
    for deviation in deviations(graph, recipe):
        raise deviation


def deviations(graph: Graph, recipe: Recipe) -> Iterator[VariantUnusable]:
    """Give what in a graph is not what its recipe asked for, matrix by matrix."""
    if not graph.matrices:
        yield VariantUnusable(f"{MODEL_FILE} has no weight matrix at all")
    for matrix in graph.matrices:
        wanted = _wanted_bits(matrix, recipe)
        if matrix.bits != wanted:
            yield _unlike(matrix, f"{wanted} bits", recipe)
        elif recipe.precision in QUANTISED:
            yield from _unlike_options(matrix, recipe)
    if recipe.int8_layers and not any(_is_sensitive_int8(m) for m in graph.matrices):
        yield VariantUnusable("int8_layers was asked for and no layer is in INT8")


def _wanted_bits(matrix: WeightMatrix, recipe: Recipe) -> int:
    match recipe.precision:
        case Precision.FP32:
            return 32
        case Precision.FP16:
            return 16
        case Precision.INT8:
            return 8
    if LANGUAGE_HEAD in matrix.node:
        return 8 if recipe.int8_head else 4
    # Which of the sensitive matrices become 8 bits depends on the layer; the others never do.
    if recipe.int8_layers and _is_sensitive_int8(matrix):
        return 8
    return 4


def _is_sensitive_int8(matrix: WeightMatrix) -> bool:
    return matrix.bits == 8 and any(name in matrix.node for name in SENSITIVE)


def _unlike_options(matrix: WeightMatrix, recipe: Recipe) -> Iterator[VariantUnusable]:
    if matrix.block_size != recipe.block_size:
        yield _unlike(matrix, f"blocks of {recipe.block_size}", recipe)
    if matrix.has_zero_points == recipe.is_symmetric:
        wanted = "no zero points" if recipe.is_symmetric else "zero points"
        yield _unlike(matrix, wanted, recipe)
    if matrix.accuracy_level != recipe.accuracy_level:
        yield _unlike(matrix, f"accuracy level {recipe.accuracy_level}", recipe)


def _unlike(matrix: WeightMatrix, expected: str, recipe: Recipe) -> VariantUnusable:
    return VariantUnusable(
        f"the {recipe.precision.value} graph is not what its recipe asked for: {matrix.node}",
        expected=expected,
        got=f"{matrix.bits} bits, blocks of {matrix.block_size}, accuracy level"
        f" {matrix.accuracy_level}, {'with' if matrix.has_zero_points else 'without'} zero points",
    )
