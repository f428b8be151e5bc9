"""Reading a JSON file that a stranger wrote: bounded, strict, never a surprise type.

Knows JSON; what the keys mean belongs to the callers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.core.errors import CheckpointIncomplete, CheckpointRefused

MIB = 1024 * 1024
DEFAULT_LIMIT_BYTES = 8 * MIB
# Gemma's tokenizer.json, the largest common one, has 33 MiB.
TOKENIZER_LIMIT_BYTES = 64 * MIB

_COPY_AGAIN = "copy the checkpoint again from where it was saved; the file may be cut off"


def read_json_object(path: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> dict[str, Any]:
    """Give the object in a JSON file.

    Raises:
        CheckpointRefused: unreadable, too large, not UTF-8, not JSON, not an object, or a key
            that comes twice in one object.
    """
    return parse_json_object(read_bounded(path, limit_bytes), str(path))


def read_bounded(path: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> bytes:
    """Give a file's bytes unless there are more than the limit."""
    try:
        with path.open("rb") as stream:
            content = stream.read(limit_bytes + 1)
    except OSError as problem:
        raise CheckpointRefused(
            f"{path} cannot be read: {problem}", next_step="check the file's permissions"
        ) from problem
    if len(content) > limit_bytes:
        raise CheckpointRefused(
            f"{path} is too large",
            expected=f"at most {limit_bytes // MIB} MiB",
            got=f"{path.stat().st_size / MIB:.1f} MiB",
            next_step="look at what is in it; no known model needs so much",
        )
    return content


def parse_json_object(content: bytes, where: str) -> dict[str, Any]:
    """Parse bytes as one JSON object; `where` names them in the refusal."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as problem:
        # An object that is there in full ends with its brace; a file still being copied does not.
        is_whole = content.rstrip().endswith(b"}")
        kind = CheckpointRefused if is_whole else CheckpointIncomplete
        raise kind(f"{where} is not valid JSON: {problem}", next_step=_COPY_AGAIN) from problem
    if not isinstance(value, dict):
        raise CheckpointRefused(
            f"{where} does not hold a JSON object",
            expected="an object",
            got=type(value).__name__,
            next_step=_COPY_AGAIN,
        )
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key given twice: two readers may each believe another one of them."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} comes twice in one object")
    return found
