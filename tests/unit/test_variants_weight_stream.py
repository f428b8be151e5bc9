"""Every weight is read once and written where it belongs, in whatever pieces and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.variants.block_codes import BlockScheme, quantise_rows
from tasks.variants.weight_stream import (
    CodesPlace,
    DataFile,
    FloatsPlace,
    MappedFiles,
    Matrix,
    Reading,
    stream,
)

SCHEME = BlockScheme(4, 32, is_symmetric=False, algorithm="default")


@pytest.fixture
def parts() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3000, 160).bfloat16(), torch.randn(1111, 160).bfloat16()


def run(readings: list[Reading], file: DataFile, done: list[Matrix] | None = None) -> bytes:
    file.open()
    listed: list[Matrix] = [] if done is None else done
    stream(readings, threads=3, done_with=listed.append, progress=lambda _: None)
    file.close()
    return file.path.read_bytes()


def test_matrix_in_two_parts_is_that_of_their_rows(
    tmp_path: Path, parts: tuple[torch.Tensor, torch.Tensor]
) -> None:
    matrix, whole = Matrix(parts), torch.cat(parts)
    file = DataFile(tmp_path / "data")
    size = whole.numel() * 4
    straight, across = file.reserve(size), file.reserve(size)
    floats = [
        FloatsPlace(file, torch.float32, straight, is_transposed=False),
        FloatsPlace(file, torch.float32, across, is_transposed=True),
    ]
    content = run([Reading(matrix, floats=floats)], file)
    assert content[straight : straight + size] == whole.float().numpy().tobytes()
    transposed = np.ascontiguousarray(whole.float().numpy().T)
    assert content[across : across + size] == transposed.tobytes()


def test_codes_in_pieces_are_those_of_the_whole_matrix(
    tmp_path: Path, parts: tuple[torch.Tensor, torch.Tensor]
) -> None:
    (whole,) = quantise_rows(torch.cat(parts), [SCHEME])
    assert whole.zero_points is not None
    tensors = [whole.packed, whole.scales, whole.zero_points]
    file = DataFile(tmp_path / "data")
    places = [file.reserve(tensor.numel() * tensor.itemsize) for tensor in tensors]
    content = run([Reading(Matrix(parts), codes=[CodesPlace(file, SCHEME, *places)])], file)
    for place, tensor in zip(places, tensors, strict=True):
        expected = tensor.numpy().tobytes()
        assert content[place : place + len(expected)] == expected


def test_each_matrix_is_done_with_once(
    tmp_path: Path, parts: tuple[torch.Tensor, torch.Tensor]
) -> None:
    file = DataFile(tmp_path / "data")
    readings = []
    for part in parts:
        place = FloatsPlace(file, torch.float16, file.reserve(part.numel() * 2), True)
        readings.append(Reading(Matrix((part,)), floats=[place]))
    done: list[Matrix] = []
    run(readings, file, done)
    assert sorted(matrix.rows for matrix in done) == [1111, 3000]


def test_error_of_one_piece_ends_the_work(tmp_path: Path) -> None:
    file = DataFile(tmp_path / "data")
    place = FloatsPlace(file, torch.float32, 0, is_transposed=False)
    with pytest.raises(OSError, match="descriptor"):  # never opened
        stream(
            [Reading(Matrix((torch.ones(8, 8),)), floats=[place])],
            threads=2,
            done_with=lambda _: None,
            progress=lambda _: None,
        )


def test_memory_that_is_no_file_of_the_checkpoint_is_never_given_back(tmp_path: Path) -> None:
    weights = torch.ones(4096, 64)
    MappedFiles(tmp_path).give_back(Matrix((weights,)))
    assert bool((weights == 1).all())
