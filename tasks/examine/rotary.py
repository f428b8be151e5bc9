"""Are the positions that a variant's graph computes with those of its reference?

The cosine and sine tables of the rotary embedding are plain numbers in the graph and not
quantised, so they can be compared exactly. A wrong base hides behind an INT4's own loss (measured
on plain text: 0.217 nats sound, 0.220 with a base of 9000 in place of 10000); here it does not.
What the difference does to the output is not known here. Runs in children only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tasks.core.graph import MODEL_FILE
from tasks.core.records import Measurement
from tasks.examine.metrics import Metrics, not_applicable, unmeasurable

METRIC_NAMES = ("build.rotary_difference", "build.rotary_rows_missing")

_TABLES = ("cos_cache", "sin_cache")  # what the builder calls them (0.18), with a suffix for some


def rotary_metrics(folder: Path, reference_folder: Path) -> Metrics:
    """Give the largest difference between the rotary tables of two built folders, and lost rows.

    Cosines and sines lie in -1..1: a table in FP16 differs from one in FP32 by at most 2.5e-4,
    one of another base by 1 to 2.

    Args:
        folder: of the variant.
        reference_folder: of the FP32 model.
    """
    expected, found = dict(_tables(reference_folder)), dict(_tables(folder))
    return {
        METRIC_NAMES[0]: _difference(expected, found),
        METRIC_NAMES[1]: _rows_missing(expected, found, _context_length(folder)),
    }


def _rows_missing(
    expected: dict[str, NDArray[np.float32]], found: dict[str, NDArray[np.float32]], context: int
) -> Measurement:
    """Count the positions of the context that the tables have no row for.

    A table has a row a position: a longer prompt reads beyond it, which nothing shorter shows. Of
    the two tables of a model that chooses between them by length, the longer one counts.
    """
    if not expected:
        return not_applicable("the reference's graph holds no rotary tables")
    rows = {
        kind: max((len(table) for name, table in found.items() if name.startswith(kind)), default=0)
        for kind in _TABLES
    }
    least = min(rows.values())
    if not least:
        return unmeasurable("the variant's graph lacks rotary tables that the reference's has")
    return Measurement(
        value=float(max(0, context - least)),
        n=context,
        method=f"positions of a context of {context} without a row in {' and '.join(rows)}",
    )


def _context_length(folder: Path) -> int:
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    return int(config["model"]["context_length"])


def _difference(
    expected: dict[str, NDArray[np.float32]], found: dict[str, NDArray[np.float32]]
) -> Measurement:
    if not expected:
        return not_applicable("the reference's graph holds no rotary tables")
    unlike = sorted({name for name, _ in _shapes(expected) ^ _shapes(found)})
    if unlike:
        return unmeasurable(f"tables unlike the reference's in name or size: {', '.join(unlike)}")
    largest = max(float(np.abs(expected[name] - found[name]).max()) for name in expected)
    return Measurement(
        value=largest,
        n=sum(table.size for table in expected.values()),
        method=f"largest difference in {', '.join(sorted(expected))} from the FP32 graph's",
    )


def _shapes(tables: dict[str, NDArray[np.float32]]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, table.shape) for name, table in tables.items()}


def _tables(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    graph = onnx.load(str(folder / MODEL_FILE), load_external_data=False).graph
    for name, tensor in _constants(graph):
        if name.startswith(_TABLES):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _load(tensor, folder)
            yield name, numpy_helper.to_array(tensor).astype(np.float32)


def _load(tensor: onnx.TensorProto, folder: Path) -> None:
    """Read a tensor's bytes from the data file.

    onnx's own reader refuses a file with several hard links (1.23), which a champion's data file
    has: it is linked into Foundry Local's index.
    """
    place = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / place["location"]).open("rb") as file:
        file.seek(int(place.get("offset", 0)))
        tensor.raw_data = file.read(int(place["length"]))
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Give the constants by name, those inside the branches of an If too.

    Models with a second table for long inputs, such as Phi-3, choose between them by an If.
    """
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _constants(attribute.g)
            elif node.op_type == "Constant" and attribute.type == onnx.AttributeProto.TENSOR:
                yield node.output[0], attribute.t
