"""Blocks of weights as 4-bit or 8-bit codes with scales, to the bit as ONNX Runtime 1.31 does it.

Arithmetic on rows of a matrix; where they come from and where the codes go is none of this module's
business. Two algorithms: `default`, that of the MLAS kernel behind `MatMulNBitsQuantizer`, in
float32; and `rtn`, that of the numpy code behind `RTNWeightOnlyQuantConfig`, in float64. Runs in a
child only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Algorithm = Literal["default", "rtn"]


@dataclass(frozen=True)
class BlockScheme:
    """How the rows of a matrix become codes."""

    bits: int
    block_size: int
    is_symmetric: bool
    algorithm: Algorithm

    @property
    def highest(self) -> int:
        """The highest code."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The code of zero where there are no zero points."""
        return 1 << (self.bits - 1)

    def blocks(self, row_length: int) -> int:
        """Give the blocks of a row; the last may be padded."""
        return -(-row_length // self.block_size)

    def code_bytes(self, row_length: int) -> int:
        """Give the bytes of a row's codes."""
        return self.blocks(row_length) * self.block_size * self.bits // 8

    def zero_point_bytes(self, row_length: int) -> int:
        """Give the bytes of a row's zero points; two of 4 bits share one, a lone one is padded."""
        return -(-self.blocks(row_length) * self.bits // 8)


@dataclass(frozen=True)
class Codes:
    """Some rows of a matrix, quantised.

    Attributes:
        packed: uint8, shape (rows, code bytes); of two 4-bit codes the first is the low half.
        scales: float32, shape (rows, blocks).
        zero_points: uint8, shape (rows, zero point bytes), or None when symmetric.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None


def quantise_rows(rows: torch.Tensor, schemes: Sequence[BlockScheme]) -> list[Codes]:
    """Quantise rows by several schemes; what they share is computed once.

    Args:
        rows: shape (rows, row length), any floating type; converted to float32 first, as the
            builder does.
        schemes: each gives one result, in this order.
    """
    extents: dict[int, _Blocks] = {}
    found = []
    for scheme in schemes:
        if scheme.block_size not in extents:
            extents[scheme.block_size] = _Blocks.of(rows, scheme.block_size)
        found.append(_ENCODERS[scheme.algorithm](extents[scheme.block_size], scheme))
    return found


@dataclass(frozen=True)
class _Blocks:
    """Rows as float32 blocks of shape (rows, blocks, block size), and their extremes."""

    values: torch.Tensor
    row_length: int
    lowest: torch.Tensor
    highest: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor, block_size: int) -> _Blocks:
        count, row_length = rows.shape
        blocks = -(-row_length // block_size)
        values = torch.empty((count, blocks * block_size), dtype=torch.float32)
        values[:, :row_length] = rows
        values[:, row_length:] = 0.0
        values = values.view(count, blocks, block_size)
        # Two passes: aminmax is slower than both together (torch 2.13).
        return cls(values, row_length, values.amin(-1), values.amax(-1))


def _default(blocks: _Blocks, scheme: BlockScheme) -> Codes:
    if scheme.is_symmetric:
        is_higher = blocks.highest.abs() > blocks.lowest.abs()
        scales = torch.where(is_higher, blocks.highest, blocks.lowest) / -scheme.middle
        offset: torch.Tensor | float = float(scheme.middle)
        zero_points = None
    else:
        lowest, highest = blocks.lowest.clamp(max=0.0), blocks.highest.clamp(min=0.0)
        scales = (highest - lowest) / scheme.highest
        exact = torch.where(scales != 0, 0.0 - lowest / scales, 0.0)
        offset = _round_half_up(exact.clamp_(0, scheme.highest))
        zero_points = _pack_zero_points(offset.to(torch.uint8), scheme)
        offset = offset.unsqueeze(-1)
    inverse = torch.where(scales != 0, scales.reciprocal(), 0.0).unsqueeze(-1)
    # MLAS rounds halves away from zero. Adding offset and half at once rounds to the same integer:
    # both sums lie in the same binade below each integer, and 0.5 is an even number of its steps.
    codes = torch.mul(blocks.values, inverse).add_(offset + 0.5).floor_()
    codes.clamp_(0, scheme.highest)
    # The kernel writes nothing past the end of a row, into memory that was zero.
    codes.view(codes.shape[0], -1)[:, blocks.row_length :] = 0
    return Codes(_pack(codes, scheme), scales, zero_points)


def _rtn(blocks: _Blocks, scheme: BlockScheme) -> Codes:
    if scheme.is_symmetric:
        reach = torch.maximum(blocks.lowest.abs(), blocks.highest.abs())
        scales = torch.where(reach > 0, (reach * 2.0).double() / scheme.highest, 1.0)
        offset: torch.Tensor | float = float(scheme.middle)
        zero_points = None
    else:
        span = blocks.highest - blocks.lowest
        scales = torch.where(span != 0, span.double() / scheme.highest, 1.0)
        exact = (0.0 - blocks.lowest.double()) / scales
        offset = exact.round_().clamp_(0, scheme.highest)
        zero_points = _pack_zero_points(offset.to(torch.uint8), scheme)
        offset = offset.unsqueeze(-1)
    # numpy divides in float64 and rounds halves to even.
    codes = blocks.values.double().div_(scales.unsqueeze(-1)).add_(offset).round_()
    packed = _pack(codes.clamp_(0, scheme.highest), scheme)
    return Codes(packed, scales.float(), zero_points)


_ENCODERS = {"default": _default, "rtn": _rtn}


def _round_half_up(values: torch.Tensor) -> torch.Tensor:
    return (values + 0.5).floor_()


def _pack(codes: torch.Tensor, scheme: BlockScheme) -> torch.Tensor:
    return _halves(codes.to(torch.uint8).view(codes.shape[0], -1), scheme.bits)


def _pack_zero_points(points: torch.Tensor, scheme: BlockScheme) -> torch.Tensor:
    if scheme.bits == 4 and points.shape[1] % 2:
        points = torch.nn.functional.pad(points, (0, 1), value=scheme.middle)  # as the kernel does
    return _halves(points, scheme.bits)


def _halves(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Put two 4-bit values into one byte, through the 16 bits that they occupy together."""
    if bits == 8:
        return values
    pairs = values.contiguous().view(torch.int16)
    return (pairs & 15).bitwise_or_((pairs >> 4) & 240).to(torch.uint8)
