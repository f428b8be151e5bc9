"""Rotary tables of two graphs are compared exactly, wherever the graph keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tasks.core.graph import MODEL_FILE
from tasks.core.records import Measurement
from tasks.examine.rotary import rotary_metrics


def tables(base: float, positions: int = 64) -> dict[str, np.ndarray]:
    angles = np.outer(np.arange(positions), base ** (-np.arange(8) / 8)).astype(np.float32)
    return {"cos_cache": np.cos(angles), "sin_cache": np.sin(angles)}


def write(
    folder: Path, held: dict[str, np.ndarray], *, branch: bool = False, context: int = 64
) -> Path:
    """Write a graph that holds these arrays as initializers, or inside the branch of an If."""
    folder.mkdir()
    tensors = [numpy_helper.from_array(array, name) for name, array in held.items()]
    nodes = []
    if branch:
        inner = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
        graph = helper.make_graph(inner, "branch", [], [])
        nodes = [helper.make_node("If", ["c"], ["o"], then_branch=graph, else_branch=graph)]
    whole = helper.make_graph(nodes, "g", [], [], initializer=[] if branch else tensors)
    onnx.save(helper.make_model(whole), folder / MODEL_FILE)
    (folder / "genai_config.json").write_text(json.dumps({"model": {"context_length": context}}))
    return folder


def write_linked(folder: Path, held: dict[str, np.ndarray]) -> Path:
    """Write the same with the arrays in a data file that another folder has too."""
    model = onnx.load(write(folder, held) / MODEL_FILE)
    onnx.save(
        model, folder / MODEL_FILE, save_as_external_data=True, location="data", size_threshold=0
    )
    (folder / "elsewhere").hardlink_to(folder / "data")
    return folder


def difference(folder: Path, reference: Path) -> Measurement:
    return rotary_metrics(folder, reference)["build.rotary_difference"]


def test_table_in_half_precision_is_the_same_table(tmp_path: Path) -> None:
    half = {name: table.astype(np.float16) for name, table in tables(1e4).items()}
    found = difference(write(tmp_path / "half", half), write(tmp_path / "full", tables(1e4)))
    assert found.value is not None
    assert 0 < found.value < 5e-4


def test_another_base_is_seen_by_far(tmp_path: Path) -> None:
    found = difference(
        write(tmp_path / "wrong", tables(9.9e3)), write(tmp_path / "right", tables(1e4))
    )
    assert found.value is not None
    assert found.value > 0.02


def test_tables_of_a_champion_whose_files_are_linked_elsewhere_are_read(tmp_path: Path) -> None:
    linked = write_linked(tmp_path / "champion", tables(1e4))
    assert difference(linked, write(tmp_path / "right", tables(1e4))).value == 0
    wrong = write_linked(tmp_path / "wrong", tables(5e3))
    assert (difference(wrong, tmp_path / "right").value or 0) > 0.5


def test_tables_in_the_branches_of_an_if_are_found(tmp_path: Path) -> None:
    wrong = write(tmp_path / "wrong", tables(5e3), branch=True)
    assert (difference(wrong, write(tmp_path / "right", tables(1e4), branch=True)).value or 0) > 0.5


def test_table_that_is_missing_or_of_another_size_is_not_measured(tmp_path: Path) -> None:
    right = write(tmp_path / "right", tables(1e4))
    shorter = difference(write(tmp_path / "shorter", tables(1e4, positions=32)), right)
    missing = difference(write(tmp_path / "missing", {}), right)
    for found in (shorter, missing):
        assert found.value is None
        assert found.applies
        assert found.final
        assert "cos_cache, sin_cache" in found.method


def test_model_without_rotary_tables_has_nothing_to_compare(tmp_path: Path) -> None:
    found = difference(write(tmp_path / "a", {}), write(tmp_path / "b", {}))
    assert not found.applies


def rows_missing(folder: Path, reference: Path) -> Measurement:
    return rotary_metrics(folder, reference)["build.rotary_rows_missing"]


def test_context_longer_than_the_table_is_counted_row_by_row(tmp_path: Path) -> None:
    right = write(tmp_path / "right", tables(1e4))
    assert rows_missing(right, right).value == 0
    longer = write(tmp_path / "longer", tables(1e4), context=100)
    assert rows_missing(longer, right).value == 36
    assert difference(longer, right).value == 0


def test_of_two_tables_the_longer_one_counts(tmp_path: Path) -> None:
    small = {f"{name}_small": table for name, table in tables(1e4, positions=16).items()}
    both = write(tmp_path / "both", {**small, **tables(1e4)}, branch=True)
    assert rows_missing(both, both).value == 0
    one_sided = {**tables(1e4), "sin_cache": tables(1e4, positions=16)["sin_cache"]}
    assert rows_missing(write(tmp_path / "one", one_sided), both).value == 48


def test_rows_of_tables_that_are_not_there_are_not_measured(tmp_path: Path) -> None:
    none, right = write(tmp_path / "none", {}), write(tmp_path / "right", tables(1e4))
    assert rows_missing(none, right).value is None
    assert rows_missing(none, right).applies
    assert not rows_missing(none, none).applies
