"""Hash a safetensors file and look for NaN and infinity in it, in one read of bounded memory.

Knows bit patterns; which tensors a model needs, and what they mean, is not its business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.checkpoint.safetensors_header import Shard, TensorEntry
from tasks.core.errors import CheckpointRefused, ResourceBusy

CHUNK_BYTES = 8 * 1024 * 1024  # a multiple of every element size, so no element is split

# dtype: unsigned integer of that size, and the exponent bits. All of them set means NaN or
# infinity. E4M3 has no infinity and one NaN pattern, all seven bits set; E8M0 likewise with eight.
_EXPONENT_BITS: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
    "F8_E8M0": ("u1", 0xFF),
}


def scan_shard(shard: Shard, *, on_bytes: Callable[[int], None] = lambda _count: None) -> str:
    """Give a file's SHA-256 once all its tensors are known to be finite.

    Args:
        shard: the file, its header read.
        on_bytes: called with the number of bytes of each piece read.

    Raises:
        CheckpointRefused: a tensor holds NaN or infinity, or the file cannot be read.
        ResourceBusy: the file became shorter since its header was read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        with shard.path.open("rb", buffering=0) as stream:
            start = shard.tensors[0].begin  # read_shard refuses a file without tensors
            for begin in range(0, start, CHUNK_BYTES):
                digest.update(_read(stream, shard.path, buffer[: min(CHUNK_BYTES, start - begin)]))
            for tensor in shard.tensors:
                for begin in range(tensor.begin, tensor.end, CHUNK_BYTES):
                    length = min(CHUNK_BYTES, tensor.end - begin)
                    piece = _read(stream, shard.path, buffer[:length])
                    digest.update(piece)
                    refuse_not_finite(shard.path, tensor, piece, begin)
                    on_bytes(length)
    except OSError as problem:
        raise CheckpointRefused(
            f"{shard.path} cannot be read: {problem}", next_step="copy the file again"
        ) from problem
    return digest.hexdigest()


def refuse_not_finite(path: Path, tensor: TensorEntry, piece: memoryview, begin: int) -> None:
    """Refuse a piece of a tensor that holds NaN or infinity; integer tensors cannot.

    Args:
        path: the file.
        tensor: which tensor.
        piece: whole elements of it.
        begin: where in the file the piece begins.
    """
    if tensor.dtype not in _EXPONENT_BITS or not piece:
        return
    kind, mask = _EXPONENT_BITS[tensor.dtype]
    bits: npt.NDArray[np.unsignedinteger] = np.frombuffer(piece, dtype=kind)
    exponents = np.bitwise_and(bits, bits.dtype.type(mask))
    if exponents.max() != mask:
        return
    first = int(exponents.argmax())
    index = (begin - tensor.begin) // bits.itemsize + first
    raise CheckpointRefused(
        f"{path}: tensor {tensor.name} holds NaN or infinity, first at element {index}",
        expected=f"finite {tensor.dtype} numbers",
        got=f"bits {int(bits[first]):#x}",
        next_step="training diverged or the save was damaged: take an earlier checkpoint, or train "
        "again with a lower learning rate or in bfloat16",
    )


def have_same_bytes(first: tuple[Path, TensorEntry], second: tuple[Path, TensorEntry]) -> bool:
    """Compare two tensors of one dtype and shape byte by byte, in bounded memory."""
    (path, tensor), (other_path, other) = first, second
    if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
        return False
    length = tensor.end - tensor.begin
    with path.open("rb") as stream, other_path.open("rb") as other_stream:
        stream.seek(tensor.begin)
        other_stream.seek(other.begin)
        for begin in range(0, length, CHUNK_BYTES):
            size = min(CHUNK_BYTES, length - begin)
            if stream.read(size) != other_stream.read(size):
                return False
    return True


def _read(stream: FileIO, path: Path, buffer: memoryview) -> memoryview:
    """Fill the buffer; one unbuffered read may give less (Linux stops at 2 GiB)."""
    filled = 0
    while filled < len(buffer):
        count = stream.readinto(buffer[filled:])
        if not count:
            raise ResourceBusy(
                f"{path} became shorter while it was read",
                next_step="wait until the checkpoint is written in full",
            )
        filled += count
    return buffer
