"""The header of a safetensors file: which tensors it promises, and whether the bytes can be there.

Knows the file format and nothing of models; no tensor is read. Written anew instead of calling the
`safetensors` package because its errors name neither the tensor nor what to do.
Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from tasks.checkpoint.json_file import parse_json_object
from tasks.core.errors import CheckpointIncomplete, CheckpointRefused

HEADER_LIMIT_BYTES = 100_000_000  # the limit of the safetensors library itself
LENGTH_BYTES = 8

BYTES_PER_ELEMENT = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
_COPY_AGAIN = "copy the file again and compare its size with the original's"
_SAVE_AGAIN = "save the checkpoint again with `save_pretrained`"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file; `begin` and `end` count bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Shard:
    """A safetensors file whose header holds: tensors in file order, without gap or overlap."""

    path: Path
    size_bytes: int
    tensors: tuple[TensorEntry, ...]


def read_shard(path: Path) -> Shard:
    """Read and check the header of a safetensors file.

    Raises:
        CheckpointRefused: unreadable, cut off, not safetensors, or a header that does not describe
            the bytes behind it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = _header_length(path, stream.read(LENGTH_BYTES), size)
            content = stream.read(length)
    except OSError as problem:
        raise CheckpointRefused(
            f"{path} cannot be read: {problem}", next_step="check the file's permissions"
        ) from problem
    header = parse_json_object(content, f"the header of {path}")
    header.pop("__metadata__", None)
    if not header:
        raise CheckpointRefused(f"{path} holds no tensors", next_step=_SAVE_AGAIN)
    start = LENGTH_BYTES + length
    tensors = sorted(
        (_entry(path, name, fields, start) for name, fields in header.items()),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    _refuse_gaps(path, tensors, start, size)
    return Shard(path, size, tuple(tensors))


def _header_length(path: Path, first: bytes, size: int) -> int:
    length = int.from_bytes(first, "little")
    if len(first) < LENGTH_BYTES or length > size - LENGTH_BYTES:
        # No file of this format has a longer header: such a one will not become right by waiting.
        kind = CheckpointIncomplete if length <= HEADER_LIMIT_BYTES else CheckpointRefused
        raise kind(
            f"{path} is cut off inside its header, or is no safetensors file",
            expected=f"a header of {length} bytes" if len(first) == LENGTH_BYTES else "a header",
            got=f"a file of {size} bytes",
            next_step=_COPY_AGAIN,
        )
    if length > HEADER_LIMIT_BYTES:
        raise CheckpointRefused(
            f"{path} claims a header of {length} bytes",
            expected=f"at most {HEADER_LIMIT_BYTES}",
            next_step=_SAVE_AGAIN,
        )
    return length


def _entry(path: Path, name: str, fields: object, start: int) -> TensorEntry:
    """Check one header entry: types first, for anything may stand in the JSON."""
    if not isinstance(fields, dict):
        raise _damaged(path, name, "an object with dtype, shape and data_offsets", fields)
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BYTES_PER_ELEMENT:
        raise _damaged(path, name, f"a dtype among {', '.join(BYTES_PER_ELEMENT)}", dtype)
    if not _are_counts(shape):
        raise _damaged(path, name, "a shape of non-negative integers", shape)
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _damaged(path, name, "two non-negative data_offsets", offsets)
    expected = math.prod(shape) * BYTES_PER_ELEMENT[dtype]
    if offsets[1] - offsets[0] != expected:
        raise _damaged(path, name, f"{expected} bytes for {dtype} {shape}", offsets[1] - offsets[0])
    return TensorEntry(name, dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _refuse_gaps(path: Path, tensors: list[TensorEntry], start: int, size: int) -> None:
    """Require that the tensors cover the file from the header to the end, each byte once."""
    covered = start
    for tensor in tensors:
        if tensor.begin != covered:
            fault = "overlaps another tensor" if tensor.begin < covered else "leaves a gap before"
            raise _damaged(
                path, tensor.name, f"data from byte {covered} on", f"{tensor.begin}: it {fault}"
            )
        covered = tensor.end
    if covered != size:
        cut = "is cut off" if covered > size else "has bytes that no tensor claims"
        kind = CheckpointIncomplete if covered > size else CheckpointRefused
        raise kind(
            f"{path} {cut}",
            expected=f"{covered} bytes, by its header",
            got=f"{size} bytes",
            next_step=_COPY_AGAIN,
        )


def _damaged(path: Path, name: str, expected: str, got: object) -> CheckpointRefused:
    return CheckpointRefused(
        f"the header of {path} is wrong for tensor {name!r}",
        expected=expected,
        got=str(got)[:200],
        next_step=_SAVE_AGAIN,
    )
