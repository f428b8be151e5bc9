"""Reads every matrix of a checkpoint once and writes what each variant needs of it.

A matrix is read in pieces that stay in a core's cache; each piece gives codes, scales and floats of
all variants, which are written to their places at once. Nothing larger than a piece is ever held,
and pages of the checkpoint are given back when their matrix is done. Which matrix goes where was
decided before (`fast_graph.py`). Runs in a child only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.variants.block_codes import BlockScheme, quantise_rows

# Pieces of 1 MiB as float32: 4.5 ns a weight for INT8 and INT4 together; twice as small ones, which
# torch's calls weigh on, take 5.1 (2 MiB of L2 cache a core, 2026-11).
_PIECE_WEIGHTS = 1 << 18
# Transposed pieces are wide: at least this many columns, a cache line of 16-bit weights.
_SLAB_COLUMNS = 32
_SLAB_WEIGHTS = 1 << 21
# Larger tensors begin at a page, so that a runtime may map them; the others at a cache line.
_LARGE_BYTES, _PAGE, _LINE = 1 << 20, 4096, 64


class DataFile:
    """One external data file: places are given out first, then written in any order.

    Args:
        path: made, with all its length, on `open`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._length = 0
        self._descriptor = -1
        self._lock = threading.Lock()

    def reserve(self, size: int) -> int:
        """Give the offset of a new place; the order of calls alone decides it."""
        step = _PAGE if size >= _LARGE_BYTES else _LINE
        offset = -(-self._length // step) * step
        self._length = offset + size
        return offset

    def open(self) -> None:
        """Make the file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self.path, flags, 0o644)
        os.ftruncate(self._descriptor, self._length)

    def write(self, offset: int, content: NDArray[np.generic]) -> None:
        """Write bytes at their place.

        Raises:
            OSError: the disk is full.
        """
        view = np.ascontiguousarray(content).data.cast("B")
        while view:
            written = self._write_some(view, offset)
            view, offset = view[written:], offset + written

    def _write_some(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._descriptor, view, offset)
        with self._lock:  # Windows
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.write(self._descriptor, view)

    def close(self) -> None:
        """Close the file; harmless when it was never open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True)
class CodesPlace:
    """Where the codes, scales and zero points of a matrix go.

    Attributes:
        zero_points_at: None without zero points.
    """

    file: DataFile
    scheme: BlockScheme
    packed_at: int
    scales_at: int
    zero_points_at: int | None


@dataclass(frozen=True)
class FloatsPlace:
    """Where a matrix goes as floats, as it is or transposed."""

    file: DataFile
    dtype: torch.dtype
    offset: int
    is_transposed: bool


@dataclass(frozen=True)
class Matrix:
    """Rows of weights, in one or several parts one below the other.

    Attributes:
        parts: each of shape (rows, row length), its rows contiguous.
    """

    parts: tuple[torch.Tensor, ...]

    @property
    def rows(self) -> int:
        """How many rows."""
        return sum(part.shape[0] for part in self.parts)

    @property
    def row_length(self) -> int:
        """Weights of a row."""
        return int(self.parts[0].shape[1])

    @property
    def identity(self) -> tuple[object, ...]:
        """The same for the same bytes in memory."""
        return tuple((part.data_ptr(), tuple(part.shape), part.dtype) for part in self.parts)

    def read(self, first: int, count: int) -> torch.Tensor:
        """Give some rows; a copy only where they lie in two parts."""
        found, start = [], 0
        for part in self.parts:
            begin, end = max(first - start, 0), min(first + count - start, part.shape[0])
            if begin < end:
                found.append(part[begin:end])
            start += part.shape[0]
        return found[0] if len(found) == 1 else torch.cat(found)

    def read_columns(self, first: int, count: int) -> torch.Tensor:
        """Give some columns as rows, contiguous: shape (count, rows)."""
        # Torch transposes in blocks only what is contiguous: 1.1 ns a weight against 3.4 (2.13).
        columns = [part[:, first : first + count].contiguous().t() for part in self.parts]
        return torch.cat(columns, dim=1) if len(columns) > 1 else columns[0].contiguous()


@dataclass
class Reading:
    """One matrix and all that is to be made of it."""

    matrix: Matrix
    codes: list[CodesPlace] = field(default_factory=list)
    floats: list[FloatsPlace] = field(default_factory=list)


Piece = Callable[[], None]


def stream(
    readings: Sequence[Reading],
    *,
    threads: int,
    done_with: Callable[[Matrix], None],
    progress: Callable[[float], None],
) -> None:
    """Read all matrices, in turn, and write what is made of them.

    Args:
        readings: in the order of the checkpoint, for the disk's sake.
        threads: that work side by side; torch itself is kept to one.
        done_with: called once a matrix was read for the last time.
        progress: called with the part that is done, from 0 to 1.

    Raises:
        OSError: the disk is full.
    """
    queue = _Queue(readings, done_with, progress)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="weights") as pool:
            for worker in [pool.submit(queue.work) for _ in range(threads)]:
                worker.result()
    finally:
        torch.set_num_threads(before)


class _Queue:
    """Pieces in order, taken by several threads; the first error stops them all."""

    def __init__(
        self,
        readings: Sequence[Reading],
        done_with: Callable[[Matrix], None],
        progress: Callable[[float], None],
    ) -> None:
        self._pieces = self._in_order(readings)
        self._lock = threading.Lock()
        self._done_with = done_with
        self._progress = progress
        self._total = sum(reading.matrix.rows * reading.matrix.row_length for reading in readings)
        self._finished = 0
        self._failed = False

    def _in_order(self, readings: Sequence[Reading]) -> Iterator[tuple[Piece, _Countdown]]:
        for reading in readings:
            pieces = list(_pieces(reading))
            left = _Countdown(reading.matrix, len(pieces))
            for piece in pieces:
                yield piece, left

    def work(self) -> None:
        while (taken := self._take()) is not None:
            piece, left = taken
            try:
                piece()
            except BaseException:
                self._failed = True
                raise
            self._count(left)

    def _take(self) -> tuple[Piece, _Countdown] | None:
        with self._lock:
            return None if self._failed else next(self._pieces, None)

    def _count(self, left: _Countdown) -> None:
        with self._lock:
            left.pieces -= 1
            if left.pieces:
                return
            self._finished += left.matrix.rows * left.matrix.row_length
            self._progress(self._finished / self._total)
        self._done_with(left.matrix)


@dataclass
class _Countdown:
    matrix: Matrix
    pieces: int


def _pieces(reading: Reading) -> Iterator[Piece]:
    matrix = reading.matrix
    straight = [place for place in reading.floats if not place.is_transposed]
    across = [place for place in reading.floats if place.is_transposed]
    if reading.codes or straight:
        count = max(1, _PIECE_WEIGHTS // matrix.row_length)
        for first in range(0, matrix.rows, count):
            yield _RowsPiece(
                matrix, first, min(count, matrix.rows - first), reading.codes, straight
            )
    if across:
        count = max(_SLAB_COLUMNS, _SLAB_WEIGHTS // matrix.rows)
        for first in range(0, matrix.row_length, count):
            yield _ColumnsPiece(matrix, first, min(count, matrix.row_length - first), across)


@dataclass(frozen=True)
class _RowsPiece:
    matrix: Matrix
    first: int
    count: int
    codes: list[CodesPlace]
    floats: list[FloatsPlace]

    def __call__(self) -> None:
        rows = self.matrix.read(self.first, self.count)
        length = self.matrix.row_length
        made = quantise_rows(rows, [place.scheme for place in self.codes])
        for place, codes in zip(self.codes, made, strict=True):
            scheme, file = place.scheme, place.file
            file.write(
                place.packed_at + self.first * scheme.code_bytes(length), codes.packed.numpy()
            )
            scales_before = self.first * scheme.blocks(length) * codes.scales.itemsize
            file.write(place.scales_at + scales_before, codes.scales.numpy())
            if codes.zero_points is not None and place.zero_points_at is not None:
                points_before = self.first * scheme.zero_point_bytes(length)
                file.write(place.zero_points_at + points_before, codes.zero_points.numpy())
        _write_floats(rows, self.first * length, self.floats)


@dataclass(frozen=True)
class _ColumnsPiece:
    matrix: Matrix
    first: int
    count: int
    floats: list[FloatsPlace]

    def __call__(self) -> None:
        columns = self.matrix.read_columns(self.first, self.count)
        _write_floats(columns, self.first * self.matrix.rows, self.floats)


def _write_floats(rows: torch.Tensor, weights_before: int, places: list[FloatsPlace]) -> None:
    for place in places:
        values = rows.to(place.dtype).contiguous()
        offset = place.offset + weights_before * values.itemsize
        place.file.write(offset, values.numpy())


# ---------------------------------------------------------------- pages


class MappedFiles:
    """Gives the kernel back the pages of weights that lie in mapped safetensors files.

    They count as resident memory until then. Only pages of such a file: they can be read again,
    whereas those of a tensor in memory would be lost. On systems without /proc or madvise nothing
    is given back.

    Args:
        folder: the checkpoint's.
    """

    def __init__(self, folder: Path) -> None:
        self._ranges = list(_mapped_ranges(folder.resolve()))
        self._madvise = ctypes.CDLL(None, use_errno=True).madvise if self._ranges else None

    def give_back(self, matrix: Matrix) -> None:
        """Give back the whole pages of a matrix."""
        for part in matrix.parts:
            start, size = part.data_ptr(), _extent(part)
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            length = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
            if self._madvise and length > 0 and self._holds(start, size):
                self._madvise(
                    ctypes.c_void_p(first), ctypes.c_size_t(length), int(mmap.MADV_DONTNEED)
                )

    def _holds(self, start: int, size: int) -> bool:
        return any(begin <= start and start + size <= end for begin, end in self._ranges)


def _extent(part: torch.Tensor) -> int:
    """Give the bytes from a part's first weight to behind its last."""
    return ((part.shape[0] - 1) * part.stride(0) + part.shape[1]) * part.itemsize


def _mapped_ranges(folder: Path) -> Iterator[tuple[int, int]]:
    maps = Path("/proc/self/maps")
    for line in maps.read_text().splitlines() if maps.exists() else ():
        addresses, *_, name = line.split(maxsplit=5)
        if name.endswith(".safetensors") and Path(name).parent == folder:
            begin, _, end = addresses.partition("-")
            yield int(begin, 16), int(end, 16)
