"""Quantises a builder's graph without its weights: nodes, names and places, but no numbers.

Makes of each graph what the builder and ONNX Runtime's quantiser would make of it, and says which
part of a data file each matrix of the checkpoint belongs in; the numbers are `weight_stream.py`'s.
A tied embedding reads the language head's rows from the start. Runs in a child only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from tasks.core.graph import MODEL_FILE
from tasks.variants.block_codes import BlockScheme
from tasks.variants.build_records import NotCovered
from tasks.variants.builder_graph import BUILDER_VERSION, BlockPlan, BuiltGraph, Stacked
from tasks.variants.weight_stream import CodesPlace, DataFile, FloatsPlace, Matrix, Reading

_CONTRIB = "com.microsoft"
_INPUT_IDS = "input_ids"
_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}


@dataclass(frozen=True)
class _Suffixes:
    """How ONNX Runtime names what it makes of a weight."""

    packed: str
    scales: str
    zero_points: str

    @classmethod
    def of(cls, scheme: BlockScheme) -> _Suffixes:
        if scheme.algorithm == "default":
            return cls(f"_Q{scheme.bits}", "_scales", "_zero_points")
        return cls(f"_Q{scheme.bits}G{scheme.block_size}", "_scale", "_zp")


@dataclass(frozen=True)
class _Quantised:
    """A matrix that became codes, and the values that stand for them in the graph."""

    matrix: Matrix
    scheme: BlockScheme
    packed: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None

    @property
    def row_bytes(self) -> int:
        return self.scheme.code_bytes(self.matrix.row_length)


class FastVariant:
    """One variant on its way: a rewritten graph, a data file, and what is to be read for it.

    Args:
        built: the builder's graph; changed in place.
        folder: gets model.onnx and its data.

    Raises:
        NotCovered: something in the graph is not known here.
    """

    def __init__(self, built: BuiltGraph, folder: Path) -> None:
        self._built = built
        self._folder = folder
        self._file = DataFile(folder / f"{MODEL_FILE}.data")
        self._quantised: dict[str, _Quantised] = {}
        self._views: dict[str, ir.Value] = {}
        if built.plan is not None:
            self._quantise(built.plan)
            self._share_embedding()
            _drop_unused(built.model.graph)
        built.model.graph.sort()
        self._small: list[tuple[int, ir.TensorProtocol]] = []
        self.readings = list(self._lay_out())

    def open(self) -> None:
        """Make the data file, and write what is in no checkpoint: rotary tables, norms, biases."""
        self._file.open()
        for offset, tensor in self._small:
            self._file.write(offset, np.frombuffer(tensor.tobytes(), dtype=np.uint8))
        self._small.clear()

    def close(self) -> None:
        """Close the data file, whatever happened."""
        self._file.close()

    def save_graph(self) -> None:
        """Write model.onnx beside its finished data."""
        self._built.model.producer_version = BUILDER_VERSION
        ir.save(self._built.model, self._folder / MODEL_FILE)

    # ------------------------------------------------------------ the graph

    def _quantise(self, plan: BlockPlan) -> None:
        for node in self._built.model.graph:
            if node.op_type != "MatMul" or node.name in plan.left_alone:
                continue
            weight = node.inputs[1]
            if weight is not None and weight.const_value is not None:
                self._quantise_node(node, weight, plan)

    def _quantise_node(self, node: ir.Node, weight: ir.Value, plan: BlockPlan) -> None:
        name = str(weight.name)
        found = self._quantised.get(name)
        if found is None:
            bits = plan.bits_of.get(str(node.name), plan.bits)
            found = self._quantised[name] = self._as_codes(name, _scheme(plan, bits))
        scheme = found.scheme
        numbers = {
            "K": found.matrix.row_length,
            "N": found.matrix.rows,
            "bits": scheme.bits,
            "block_size": scheme.block_size,
            "accuracy_level": plan.accuracy_level,
        }
        node.name = f"{node.name}_Q{scheme.bits}"
        node.op_type, node.domain = "MatMulNBits", _CONTRIB
        inputs = [node.inputs[0], found.packed, found.scales, found.zero_points]
        _set_inputs(node, [value for value in inputs if value is not None])
        # 0 says that nobody chose, and ONNX Runtime's quantiser leaves it out.
        _set_attributes(node, {k: v for k, v in numbers.items() if k != "accuracy_level" or v})

    def _as_codes(self, name: str, scheme: BlockScheme) -> _Quantised:
        source = self._built.sources.get(name)
        matrix = None if source is None else _as_matrix(source)
        if matrix is None or not matrix[1]:
            raise NotCovered(f"{name} is not the transpose of a matrix of the checkpoint")
        if matrix[0].row_length % 2:
            # The kernel reads past such a row for the second half of its last byte (1.31).
            raise NotCovered(f"{name} has rows of {matrix[0].row_length} weights, an odd number")
        rows, blocks = matrix[0].rows, scheme.blocks(matrix[0].row_length)
        suffix = _Suffixes.of(scheme)
        packed_shape = [rows, blocks, scheme.block_size * scheme.bits // 8]
        points_shape = [rows, scheme.zero_point_bytes(matrix[0].row_length)]
        uint8 = ir.DataType.UINT8
        return _Quantised(
            matrix[0],
            scheme,
            _value(name + suffix.packed, uint8, packed_shape),
            _value(name + suffix.scales, ir.DataType.FLOAT, [rows, blocks]),
            None if scheme.is_symmetric else _value(name + suffix.zero_points, uint8, points_shape),
        )

    def _share_embedding(self) -> None:
        """Let the embedding look its rows up in the language head's codes, where it is the head.

        The builder's own way breaks for zero points and for another precision of the head, and
        keeps a tied embedding in FP32 beside INT8 (0.18).
        """
        lookup = self._lookup()
        head = None if lookup is None else self._head_of(lookup)
        if lookup is None or head is None:
            return
        name = f"{head.packed.name}.rows"
        rows = _value(name, ir.DataType.UINT8, [head.matrix.rows, head.row_bytes])
        self._views[name] = head.packed
        inputs = [rows, lookup.inputs[1], head.scales, head.zero_points]
        lookup.op_type, lookup.domain = "GatherBlockQuantized", _CONTRIB
        _set_inputs(lookup, [value for value in inputs if value is not None])
        numbers = {
            "bits": head.scheme.bits,
            "block_size": head.scheme.block_size,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        _set_attributes(lookup, numbers)
        self._built.model.graph.register_initializer(_with_place(rows, None, 0, 0))

    def _lookup(self) -> ir.Node | None:
        for node in self._built.model.graph:
            is_lookup = node.op_type in ("Gather", "GatherBlockQuantized")
            if is_lookup and node.inputs[1] is not None and node.inputs[1].name == _INPUT_IDS:
                return node
        return None

    def _head_of(self, lookup: ir.Node) -> _Quantised | None:
        head = self._quantised.get("lm_head.MatMul.weight")
        if lookup.op_type == "GatherBlockQuantized":
            if head is None:
                raise NotCovered("the embedding is to read a language head that is not there")
            return head
        table = lookup.inputs[0]
        source = self._built.sources.get(str(table.name)) if table is not None else None
        matrix = None if source is None else _as_matrix(source)
        if head is None or matrix is None or matrix[0].identity != head.matrix.identity:
            return None
        # The lookup gives whole blocks, and the next node expects the row.
        return None if head.matrix.row_length % head.scheme.block_size else head

    # ------------------------------------------------------------ the data file

    def _lay_out(self) -> Iterator[Reading]:
        """Give each initializer its place in the file, in the order of the graph."""
        for found in self._quantised.values():
            for value in (found.packed, found.scales, found.zero_points):
                if value is not None:
                    self._built.model.graph.register_initializer(_with_place(value, None, 0, 0))
        _drop_unused(self._built.model.graph)
        codes = {str(q.packed.name): q for q in self._quantised.values()}
        parts = {
            str(v.name) for q in codes.values() for v in (q.scales, q.zero_points) if v is not None
        }
        for name, value in list(self._built.model.graph.initializers.items()):
            if name in codes:
                yield self._place_codes(codes[name])
            elif name not in parts and name not in self._views:
                yield from self._place_floats(value)
        for name, seen in self._views.items():
            place = seen.const_value
            assert isinstance(place, ir.ExternalTensor)
            view = self._built.model.graph.initializers[name]
            _with_place(view, self._file, place.offset or 0, place.length or 0)

    def _place_codes(self, found: _Quantised) -> Reading:
        offsets = [
            None if value is None else self._reserve(value)
            for value in (found.packed, found.scales, found.zero_points)
        ]
        packed_at, scales_at, zero_points_at = offsets
        assert packed_at is not None
        assert scales_at is not None
        place = CodesPlace(self._file, found.scheme, packed_at, scales_at, zero_points_at)
        return Reading(found.matrix, codes=[place])

    def _place_floats(self, value: ir.Value) -> Iterator[Reading]:
        tensor = value.const_value
        assert tensor is not None
        offset = self._reserve(value)
        source = self._built.sources.get(str(value.name))
        matrix = None if source is None else _as_matrix(source)
        if matrix is None or value.dtype not in _DTYPES:
            self._small.append((offset, tensor))
            return
        place = FloatsPlace(self._file, _DTYPES[value.dtype], offset, matrix[1])
        yield Reading(matrix[0], floats=[place])

    def _reserve(self, value: ir.Value) -> int:
        assert value.dtype is not None
        assert value.shape is not None
        size = int(np.ceil(np.prod(value.shape.numpy(), dtype=np.int64) * value.dtype.itemsize))
        offset = self._file.reserve(size)
        _with_place(value, self._file, offset, size)
        return offset


def merged(readings: Iterator[Reading]) -> list[Reading]:
    """Join what several variants want of one matrix, so that it is read once for all."""
    found: dict[tuple[object, ...], Reading] = {}
    for reading in readings:
        joint = found.setdefault(reading.matrix.identity, Reading(reading.matrix))
        joint.codes.extend(reading.codes)
        joint.floats.extend(reading.floats)
    return list(found.values())


def _scheme(plan: BlockPlan, bits: int) -> BlockScheme:
    match plan.algorithm:
        case "default":
            return BlockScheme(bits, plan.block_size, plan.is_symmetric, "default")
        case "rtn":
            return BlockScheme(bits, plan.block_size, plan.is_symmetric, "rtn")
    raise NotCovered(f"{plan.algorithm} is ONNX Runtime's own search for scales")


def _as_matrix(source: torch.Tensor | Stacked) -> tuple[Matrix, bool] | None:
    """Give a source as rows, and whether it is their transpose; None if it is no matrix."""
    if isinstance(source, Stacked):
        return Matrix(source.parts), source.is_transposed
    if source.dim() != 2:
        return None
    if source.stride(0) == 1 and source.shape[1] > 1:
        return Matrix((source.T,)), True
    return (Matrix((source,)), False) if source.stride(1) == 1 else None


def _value(name: str, dtype: ir.DataType, shape: list[int]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _with_place(value: ir.Value, file: DataFile | None, offset: int, size: int) -> ir.Value:
    """Say where a value's bytes are, or will be."""
    assert value.dtype is not None
    assert isinstance(value.shape, ir.Shape)
    value.const_value = ir.ExternalTensor(
        file.path.name if file else "",
        offset,
        size,
        value.dtype,
        shape=value.shape,
        name=str(value.name),
        base_dir=file.path.parent if file else "",
    )
    return value


def _set_inputs(node: ir.Node, values: list[ir.Value]) -> None:
    node.resize_inputs(len(values))
    for index, value in enumerate(values):
        node.replace_input_with(index, value)


def _set_attributes(node: ir.Node, numbers: dict[str, int]) -> None:
    node.attributes.clear()
    for name, number in numbers.items():
        node.attributes[name] = ir.AttrInt64(name, number)


def _drop_unused(graph: ir.Graph) -> None:
    """Take out nodes and initializers that nothing reads any more."""
    results = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(output.uses() or output in results for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
