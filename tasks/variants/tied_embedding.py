"""Make a tied embedding read the language head's quantised rows instead of a table of its own.

Works on a built model.onnx and its data file. Decides by the weights themselves whether the two
are one matrix; what config.json says about it is not asked. Runs in a child only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.core.graph import MODEL_FILE

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 4096
_BYTES_AT_ONCE = 16 * 1024 * 1024
# Rounding leaves half a step. The default algorithm clamps the far end of a symmetric block and
# leaves up to one; k_quant moves the scale and leaves a little more. A foreign matrix is off by
# tens of steps of an 8-bit block.
_STEPS_APART = 2.0


@dataclass(frozen=True)
class _Head:
    """The language head: a MatMulNBits node and its initializers."""

    bits: int
    block_size: int
    rows: int
    row_length: int
    weight: onnx.TensorProto
    scales: onnx.TensorProto
    zero_points: onnx.TensorProto | None


def share_embedding(folder: Path) -> bool:
    """Replace the embedding's own table or its copy of the head by a second view of the head.

    The stock builder keeps a tied embedding in FP32 when it quantises to INT8, so that the result
    is larger than its source (1,109 MB against 565 MB for a 0.5 B model), and for INT4 it reshapes
    the head's weights at run time, which ONNX Runtime folds into a copy (0.18 and 1.31, 2026-11).
    Both become an initializer that names the same bytes of the data file with other dimensions.

    Args:
        folder: holds model.onnx and its external data; both are rewritten in place.

    Returns:
        True when something was replaced; False when the embedding is not the head's matrix, or is
        not quantised, or its rows do not end with a whole block.
    """
    file = folder / MODEL_FILE
    model = onnx.load(str(file), load_external_data=False)
    lookup, head = _embedding_lookup(model.graph), _quantised_head(model.graph)
    if lookup is None or head is None:
        return False
    if lookup.op_type == "GatherBlockQuantized":
        changed = _alias_reshaped_head(model.graph, lookup, head)
    else:
        changed = _quantise_table(model.graph, lookup, head, folder)
    if changed:
        _drop_unused_constants(model.graph)
        onnx.save(model, str(file))
    return changed


def _embedding_lookup(graph: onnx.GraphProto) -> onnx.NodeProto | None:
    for node in graph.node:
        if node.op_type in ("Gather", "GatherBlockQuantized") and node.input[1] == "input_ids":
            return node
    return None


def _quantised_head(graph: onnx.GraphProto) -> _Head | None:
    for node in graph.node:
        if node.op_type != "MatMulNBits" or "logits" not in node.output:
            continue
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        zero_points = node.input[3] if len(node.input) > 3 else ""
        return _Head(
            bits=numbers["bits"],
            block_size=numbers["block_size"],
            rows=numbers["N"],
            row_length=numbers["K"],
            weight=tensors[node.input[1]],
            scales=tensors[node.input[2]],
            zero_points=tensors[zero_points] if zero_points else None,
        )
    return None


def _alias_reshaped_head(graph: onnx.GraphProto, lookup: onnx.NodeProto, head: _Head) -> bool:
    """Take out the Reshape between the head's weights and the lookup, if that is what is there."""
    reshape = next((node for node in graph.node if lookup.input[0] in node.output), None)
    if reshape is None or reshape.op_type != "Reshape" or reshape.input[0] != head.weight.name:
        return False
    lookup.input[0] = _add_view(graph, head.weight, [head.rows, _row_bytes(head)])
    graph.node.remove(reshape)
    return True


def _quantise_table(
    graph: onnx.GraphProto, lookup: onnx.NodeProto, head: _Head, folder: Path
) -> bool:
    table = next((t for t in graph.initializer if t.name == lookup.input[0]), None)
    if table is None or head.bits != 8 or table.data_type != onnx.TensorProto.FLOAT:
        return False
    if list(table.dims) != [head.rows, head.row_length] or head.row_length % head.block_size:
        log.info("embedding %s kept in FP32: its rows are not the head's blocks", table.name)
        return False
    if not _same_matrix(table, head, folder):
        log.info("embedding %s kept in FP32: it is not the language head's matrix", table.name)
        return False
    lookup.op_type = "GatherBlockQuantized"
    lookup.domain = "com.microsoft"
    inputs = [
        _add_view(graph, head.weight, [head.rows, _row_bytes(head)]),
        lookup.input[1],
        head.scales.name,
        *([head.zero_points.name] if head.zero_points is not None else []),
    ]
    del lookup.input[:]
    lookup.input.extend(inputs)
    del lookup.attribute[:]
    numbers = {
        "bits": head.bits,
        "block_size": head.block_size,
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    lookup.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in numbers.items())
    graph.initializer.remove(table)
    _repack(graph.initializer, folder)
    return True


def _row_bytes(head: _Head) -> int:
    blocks = -(-head.row_length // head.block_size)
    return blocks * head.block_size * head.bits // 8


def _add_view(graph: onnx.GraphProto, tensor: onnx.TensorProto, dims: list[int]) -> str:
    """Add an initializer over the same bytes of the data file; gives its name."""
    view = onnx.TensorProto()
    view.CopyFrom(tensor)
    name = f"{tensor.name}.rows"
    view.name = name
    del view.dims[:]
    view.dims.extend(dims)
    graph.initializer.append(view)
    return name


def _drop_unused_constants(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        if not used & set(node.output):
            graph.node.remove(node)


# ---------------------------------------------------------------- comparing


def _same_matrix(table: onnx.TensorProto, head: _Head, folder: Path) -> bool:
    """Tell whether the head, dequantised, is the table to within its own rounding."""
    for first in range(0, head.rows, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, head.rows - first)
        steps = _read_rows(head.scales, folder, first, count)
        rows = _dequantised(head, folder, first, count, steps)
        wanted = _read_rows(table, folder, first, count).reshape(rows.shape)
        allowed = _STEPS_APART * np.abs(steps)[..., None] + 1e-7
        if not bool((np.abs(rows - wanted) <= allowed).all()):
            return False
    return True


def _dequantised(
    head: _Head, folder: Path, first: int, count: int, steps: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Give rows of the head as (count, blocks, block_size)."""
    codes = _read_rows(head.weight, folder, first, count).astype(np.float32)
    middle: NDArray[np.float32] | float = float(1 << (head.bits - 1))
    if head.zero_points is not None:
        middle = _read_rows(head.zero_points, folder, first, count).astype(np.float32)[..., None]
    rows: NDArray[np.float32] = (codes - middle) * steps[..., None]
    return rows


def _read_rows(
    tensor: onnx.TensorProto, folder: Path, first: int, count: int
) -> NDArray[np.float32]:
    """Read rows of an external tensor; only these rows are in memory."""
    place = _place_of(tensor)
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    row = int(np.prod(tensor.dims[1:], dtype=np.int64))
    values = np.fromfile(
        folder / place.file,
        dtype=kind,
        count=count * row,
        offset=place.offset + first * row * kind.itemsize,
    )
    return values.reshape(count, *tensor.dims[1:])


# ---------------------------------------------------------------- rewriting the data file


@dataclass(frozen=True)
class _Place:
    file: str
    offset: int
    length: int


def _place_of(tensor: onnx.TensorProto) -> _Place:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return _Place(entries["location"], int(entries.get("offset", 0)), int(entries["length"]))


def _repack(tensors: Iterable[onnx.TensorProto], folder: Path) -> None:
    """Write a new data file with only what the tensors name; views of one place stay views."""
    users = list(_by_place(tensors))
    if not users:
        return
    source = folder / users[0][0].file
    target = source.with_name(f"{source.name}.repacked")
    with source.open("rb") as old, target.open("wb") as new:
        for place, named in users:
            start = new.tell()
            _copy_bytes(old, new, place)
            for tensor in named:
                _set_offset(tensor, start)
    target.replace(source)


def _by_place(
    tensors: Iterable[onnx.TensorProto],
) -> Iterator[tuple[_Place, list[onnx.TensorProto]]]:
    """Group external tensors by the bytes that they name, in the order of the file."""
    groups: dict[_Place, list[onnx.TensorProto]] = {}
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            groups.setdefault(_place_of(tensor), []).append(tensor)
    yield from sorted(groups.items(), key=lambda item: item[0].offset)


def _copy_bytes(old: BinaryIO, new: BinaryIO, place: _Place) -> None:
    old.seek(place.offset)
    left = place.length
    while left:
        block = old.read(min(left, _BYTES_AT_ONCE))
        if not block:
            raise EOFError(f"{place.file} ends {left} bytes before a tensor does")
        new.write(block)
        left -= len(block)


def _set_offset(tensor: onnx.TensorProto, offset: int) -> None:
    for entry in tensor.external_data:
        if entry.key == "offset":
            entry.value = str(offset)
