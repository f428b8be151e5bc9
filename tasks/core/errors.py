"""Ingot's errors, in one tree whose second level is the retry decision.

    IngotError
    ├── InputError             what the user gave is wrong: never retried, exit code 2
    │   ├── CheckpointRefused
    │   │   └── CheckpointIncomplete   a part is missing or cut off: it may still be on its way
    │   ├── QuestionsRefused
    │   ├── PolicyRefused
    │   └── RecipeRefused
    ├── EnvironmentUnfit       this machine cannot do it as it stands: never retried, exit code 4
    │   ├── DoesNotFit         memory, disk
    │   └── ToolMissing        a package or runtime is absent, or not the pinned version
    ├── ToolFailed             a tool's result is wrong and would be again: never retried, exit 3
    │   └── VariantUnusable    built, but it does not load, decode or match its recipe
    └── TransientFault         may heal: retried with backoff, exit code 4 once retries are spent
        ├── ChildKilled
        ├── ChildTimedOut
        └── ResourceBusy       a locked file, a busy server

It knows nothing of Prefect: `tasks/core/task.py` turns the tree into a retry policy.
"""

from __future__ import annotations

import errno
import re
from typing import ClassVar

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
_DISK_FULL = (39, 112)  # of Windows
# Libraries written in Rust and C++ keep no number, and numpy's `tofile` has none at all.
_FULL_IN_WORDS = re.compile(
    r"No space left on device|not enough space on the disk|Disk quota exceeded|os error 28\b"
    r"|\d+ requested and \d+ written"
)
_BUSY = (errno.EAGAIN, errno.EBUSY, errno.ETXTBSY)
_SHARING_VIOLATIONS = (32, 33)  # Windows: another program, most often a virus scanner, has it open


class IngotError(Exception):
    """Anything Ingot reports by name; the message says what was expected, what came, what to do.

    Args:
        message: what is wrong, with the file or value it is about.
        expected: what would have been right; empty when the message says it.
        got: what came instead; empty when the message says it.
        next_step: what the user can do now.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str = "", *, expected: str = "", got: str = "", next_step: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.got = got
        self.next_step = next_step

    def __str__(self) -> str:
        """Join the parts into one readable paragraph."""
        parts = [self.message if self.message.endswith((".", "!", "?")) else f"{self.message}."]
        if self.expected:
            parts.append(f"Expected: {self.expected}.")
        if self.got:
            parts.append(f"Got: {self.got}.")
        if self.next_step:
            parts.append(f"Next: {self.next_step}.")
        return " ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the keyword-only parts when the error crosses a process."""
        return (_rebuild, (type(self), self.to_fields()))

    def to_fields(self) -> dict[str, str]:
        """Give the parts as plain strings, for JSON."""
        return {
            "message": self.message,
            "expected": self.expected,
            "got": self.got,
            "next_step": self.next_step,
        }


class InputError(IngotError):
    """What the user gave is wrong; trying again cannot help."""

    exit_code = 2


class CheckpointRefused(InputError):
    """The checkpoint is incomplete, unsafe or contradicts itself."""


class CheckpointIncomplete(CheckpointRefused):
    """A part of the checkpoint is missing or cut off, as while it is being copied."""


class QuestionsRefused(InputError):
    """The question file cannot be read as questions."""


class PolicyRefused(InputError):
    """The policy file names an unknown gate, key or value."""


class RecipeRefused(InputError):
    """The recipe asks for something the builder cannot make."""


class EnvironmentUnfit(IngotError):
    """This machine, as it stands, cannot do the work."""

    exit_code = 4


class DoesNotFit(EnvironmentUnfit):
    """Memory or disk is smaller than the forecast."""


class ToolMissing(EnvironmentUnfit):
    """A package or runtime is absent or is not the version Ingot was tested with."""


class ToolFailed(IngotError):
    """A tool produced a wrong result, and would again with the same input."""

    exit_code = 3


class VariantUnusable(ToolFailed):
    """A variant was built but does not load, does not decode, or is not what its recipe asked."""


class TransientFault(IngotError):
    """Something that may be gone at the next try."""

    exit_code = 4


class ChildKilled(TransientFault):
    """A child process was ended by a signal, most often the out-of-memory killer."""


class ChildTimedOut(TransientFault):
    """A child process ran past its deadline."""


class ResourceBusy(TransientFault):
    """A file is locked or a server is busy."""


def _rebuild(kind: type[IngotError], fields: dict[str, str]) -> IngotError:
    message = fields.get("message", "")
    rest = {key: value for key, value in fields.items() if key != "message"}
    return kind(message, **rest)


def _subclasses(kind: type[IngotError]) -> dict[str, type[IngotError]]:
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        found.update(_subclasses(child))
    return found


def error_from_fields(kind: str, fields: dict[str, str]) -> IngotError:
    """Rebuild an error that a child process wrote down.

    Args:
        kind: class name in this module's tree; an unknown name becomes ToolFailed.
        fields: what `IngotError.to_fields` gave.
    """
    return _rebuild(_subclasses(IngotError).get(kind, ToolFailed), fields)


def named(problem: BaseException) -> IngotError:
    """Find an error's place in the tree: the system's by number, foreign ones as ToolFailed."""
    if isinstance(problem, IngotError):
        return problem
    text = f"{type(problem).__name__}: {problem}"
    number = getattr(problem, "errno", None)
    if isinstance(problem, MemoryError) or number in _FULL or _says_full(problem):
        return DoesNotFit(text, next_step="free memory or disk, then run the same command again")
    if number in _BUSY or getattr(problem, "winerror", None) in _SHARING_VIOLATIONS:
        return ResourceBusy(text)
    if isinstance(problem, SystemError) and "AST constructor" in text:
        # Two threads that parse at once, in a CPython 3.11 before 3.11.8 (python/cpython#106905).
        return TransientFault(text, next_step="run again, or use a newer Python")
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return EnvironmentUnfit(text, next_step="make it writable, or set INGOT_HOME elsewhere")
    return ToolFailed(text)


def _says_full(problem: BaseException) -> bool:
    if getattr(problem, "winerror", None) in _DISK_FULL:
        return True
    causes = [problem]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    return any(_FULL_IN_WORDS.search(str(cause)) for cause in causes)
