"""Foundry Local's error codes in terms of Ingot's tree.

Knows codes and words as measured on foundry-local-sdk 2.2.1; the runtime itself is not touched.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tasks.core.errors import (
    DoesNotFit,
    EnvironmentUnfit,
    IngotError,
    InputError,
    ResourceBusy,
    ToolFailed,
    VariantUnusable,
)

INDEX_FILE = "foundry.local.modelinfo.json"

BROKEN_INSIDE = 2  # a model that does not load, an index that does not parse, a disk that refuses
WRONG_ARGUMENT = 3
WRONG_ORDER = 4  # unregistered while loaded, asked while not loaded

_BUSY = ("flock failed", "open failed for lock", "FileLock: failed", "Resource busy")
_DISK = ("filesystem error", "Permission denied", "Read-only file system")
_FULL = ("No space left on device", "Cannot allocate memory", "bad allocation", "std::bad_alloc")
_FREE = "free memory or disk"
_INDEX = "local model registration index"
_UNWRITTEN = f"failed to write {_INDEX}"  # on a full disk; it is replaced whole or not at all
_NO_ROOM_BYTES = 1024**2
# "search_options.cc:108 int fl::Validate(int64_t, int) request requires ..." -> "request requires"
_SOURCE_POSITION = re.compile(r"\b\w+\.cc:\d+ [^()]*\([^()]*\)(?: const)? ")


def in_plain_words(words: str) -> str:
    """Put Foundry Local's message on one line, without the C++ source positions in it."""
    return " ".join(_SOURCE_POSITION.sub("", words).split())


def ingot_error(code: int, words: str, *, doing: str, index: Path) -> IngotError:
    """Give the error of Ingot's tree for one of Foundry Local's.

    Args:
        code: `FoundryLocalException.error_code`.
        words: its message.
        doing: what was being done, such as `loading m-int4-cpu:1`.
        index: the folder of the model index.
    """
    plain = in_plain_words(words)
    return _machine_fault(plain, doing, index) or _request_fault(code, plain, doing)


def service_error(words: str, *, doing: str, index: Path) -> IngotError:
    """Give the error for the runtime's own start and end, which no model has a part in.

    Always one of this machine or of this moment, whatever the code: never a verdict on a variant.

    Args:
        words: message of the exception.
        doing: what was being done, such as `starting the web service`.
        index: the folder of the model index.
    """
    plain = in_plain_words(words)
    return _machine_fault(plain, doing, index) or ResourceBusy(
        f"{doing}: Foundry Local failed: {plain}",
        next_step="free memory and ports, then run the same command again",
    )


def raise_lack_of_room(words: str) -> None:
    """Raise when the runtime's words, wherever they were heard, mean that memory or disk ran out.

    Raises:
        DoesNotFit: they do.
    """
    if any(sign in words for sign in _FULL):
        raise DoesNotFit(f"Foundry Local: {in_plain_words(words)}", next_step=_FREE)


def _machine_fault(words: str, doing: str, index: Path) -> IngotError | None:
    if _UNWRITTEN in words:
        kind = DoesNotFit if _free_bytes(index) < _NO_ROOM_BYTES else EnvironmentUnfit
        return kind(
            f"{doing}: Foundry Local cannot write its model index {index / INDEX_FILE}",
            got=words,
            next_step="free disk space, or make that folder writable, then release again",
        )
    if _INDEX in words:
        return EnvironmentUnfit(
            f"{doing}: Foundry Local cannot read its model index {index / INDEX_FILE}",
            got=words,
            next_step="do not delete it, applications find their models through it: restore it "
            "from a backup, or move it aside and release again",
        )
    if any(sign in words for sign in _FULL):
        return DoesNotFit(f"{doing}: {words}", next_step=_FREE)
    if any(sign in words for sign in _BUSY):
        return ResourceBusy(f"{doing}: the model index in {index} is locked", got=words)
    if any(sign in words for sign in _DISK):
        return EnvironmentUnfit(
            f"{doing}: Foundry Local cannot write below {index}",
            got=words,
            next_step="make that folder writable, or set INGOT_HOME to one that is",
        )
    return None


def _free_bytes(index: Path) -> int:
    """Give the room on the index's disk; plenty where that cannot be told."""
    try:
        return shutil.disk_usage(index).free
    except OSError:
        return _NO_ROOM_BYTES


def _request_fault(code: int, words: str, doing: str) -> IngotError:
    if code == WRONG_ARGUMENT:
        return InputError(f"{doing}: Foundry Local refused it: {words}")
    if code == WRONG_ORDER:
        return ToolFailed(
            f"{doing}: Foundry Local says that it is not the time for it: {words}",
            next_step="close every application that has this model loaded, then try again",
        )
    if code == BROKEN_INSIDE:
        return VariantUnusable(f"{doing}: {words}")
    return ToolFailed(f"{doing}: Foundry Local failed with code {code}: {words}")
