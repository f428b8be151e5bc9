"""Our codes, scales and zero points are those of ONNX Runtime's own quantisers, to the bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantizer,
)
from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor

from tasks.variants.block_codes import BlockScheme, quantise_rows

pytestmark = pytest.mark.real

BLOCK_SIZES = (16, 32, 64, 128, 256)
# Whole blocks, an odd number of them, and rows that end within a block.
ROW_LENGTHS = (512, 768, 200)


def weights(row_length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(row_length)
    rows = (torch.randn((96, row_length), generator=generator) * 0.02).bfloat16()
    rows[0] = 0.0  # no scale
    rows[1] = 0.5  # no range
    rows[2] = rows[2].abs()  # one sign only
    rows[3] = -rows[3].abs()
    rows[4] = rows[4].abs().amax() * (-1.0) ** torch.arange(row_length)  # extremes of one size
    # Codes that lie half-way between two: where ways of rounding part.
    rows[5] = (torch.arange(row_length) % 31 - 15) / 2
    return rows


def of_onnx_runtime(rows: NDArray[np.float32], scheme: BlockScheme) -> list[NDArray[np.generic]]:
    config = DefaultWeightOnlyQuantConfig(
        block_size=scheme.block_size, is_symmetric=scheme.is_symmetric, bits=scheme.bits
    )
    packed, scales, zero_points = DefaultWeightOnlyQuantizer(config).qbits_block_quant(
        np.ascontiguousarray(rows.T)
    )
    return [packed.reshape(len(rows), -1), scales, zero_points]


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_default_algorithm_is_that_of_the_kernel(bits: int, is_symmetric: bool) -> None:
    for row_length, block_size in itertools.product(ROW_LENGTHS, BLOCK_SIZES):
        scheme = BlockScheme(bits, block_size, is_symmetric, "default")
        rows = weights(row_length)
        packed, scales, zero_points = of_onnx_runtime(rows.float().numpy(), scheme)
        (ours,) = quantise_rows(rows, [scheme])
        np.testing.assert_array_equal(ours.scales.numpy(), scales, str(scheme))
        if ours.zero_points is not None:
            np.testing.assert_array_equal(ours.zero_points.numpy(), zero_points, str(scheme))
        np.testing.assert_array_equal(ours.packed.numpy(), packed, str(scheme))


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_rtn_is_that_of_the_numpy_code(bits: int, is_symmetric: bool) -> None:
    for row_length, block_size in itertools.product(ROW_LENGTHS, BLOCK_SIZES):
        scheme = BlockScheme(bits, block_size, is_symmetric, "rtn")
        rows = weights(row_length)
        padded = np.pad(rows.float().numpy(), ((0, 0), (0, -row_length % block_size)))
        codes, scales, zero_points = quant_tensor(
            padded, bits, block_size, "sym" if is_symmetric else "asym", "uint"
        )
        (ours,) = quantise_rows(rows, [scheme])
        np.testing.assert_array_equal(unpacked(ours.packed, bits).ravel(), codes.ravel())
        np.testing.assert_array_equal(ours.scales.numpy().ravel(), scales.astype(np.float32)[:, 0])
        if ours.zero_points is not None:
            blocks = scheme.blocks(row_length)
            points = unpacked(ours.zero_points, bits).reshape(len(rows), -1)[:, :blocks]
            np.testing.assert_array_equal(points.ravel(), zero_points.ravel())


def unpacked(values: torch.Tensor, bits: int) -> NDArray[np.uint8]:
    raw = values.numpy()
    return raw if bits == 8 else np.stack([raw & 15, raw >> 4], axis=-1)


def test_schemes_together_give_what_each_gives_alone() -> None:
    rows = weights(512)
    schemes = [BlockScheme(bits, size, True, "default") for bits in (4, 8) for size in (32, 128)]
    for scheme, together in zip(schemes, quantise_rows(rows, schemes), strict=True):
        (alone,) = quantise_rows(rows, [scheme])
        assert torch.equal(alone.packed, together.packed)
        assert torch.equal(alone.scales, together.scales)
