"""Which files of a checkpoint folder decide what the model is, and the digest over them.

Admission gives the digest and a build holds the folder to it. What is in the files is for
admission to judge.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from tasks.core.errors import CheckpointRefused
from tasks.core.files import digest_of, sha256_file
from tasks.core.records import Checkpoint

FileState = tuple[str, int, int, int, int]  # name, size, times of change, inode

# transformers writes named chat templates here; the only folder below a checkpoint that counts.
TEMPLATE_FOLDER = "additional_chat_templates"

# Together with the safetensors files in use; README, training logs and the like are free to change.
_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "model.safetensors.index.json",
    "*.model",
    "*.jinja",
    f"{TEMPLATE_FOLDER}/*.jinja",
)


def checkpoint_entries(folder: Path) -> list[Path]:
    """List what may belong to a checkpoint: the folder's entries and the named chat templates.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(folder.iterdir()) + sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))


def file_states(folder: Path) -> list[FileState]:
    """Give what tells, without reading a byte, that a checkpoint's files look untouched.

    Raises:
        OSError: the folder cannot be read.
    """
    found = []
    for entry in checkpoint_entries(folder):
        state = entry.stat()
        name = entry.relative_to(folder).as_posix()
        # The time of the inode's change too: copying may keep the other one.
        found.append((name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
    return found


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a name, relative to the folder, meets a pattern; `*` stops at a slash."""
    depth = name.count("/")
    return any(pattern.count("/") == depth and fnmatchcase(name, pattern) for pattern in patterns)


def deciding_files(files: Iterable[str], weight_files: Iterable[str]) -> set[str]:
    """Give the names of the files whose names and bytes are the checkpoint's digest.

    Args:
        files: names of all files, relative to the folder.
        weight_files: the safetensors files in use.
    """
    return {*(name for name in files if matches(name, _PATTERNS)), *weight_files}


def checkpoint_digest(folder: Path, weight_files: Iterable[str]) -> str:
    """Give the digest that admission gives, by reading every deciding file once.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    names = _deciding_files_in(folder, weight_files)
    return digest_of((name, sha256_file(folder / name)) for name in names)


def require_unchanged(checkpoint: Checkpoint) -> None:
    """Hash a checkpoint again and refuse one that is no longer what was admitted.

    Called after each step that reads it, so that nothing made of mixed bytes is kept under the
    digest. Not tried again: the run is about bytes that are no more.

    Raises:
        CheckpointRefused: a deciding file has come, gone or changed.
    """
    try:
        if checkpoint_digest(checkpoint.path, checkpoint.weight_files) == checkpoint.digest:
            return
        trace = f"{_last_written(checkpoint)} was written last"
    except OSError as problem:
        trace = str(problem)
    raise CheckpointRefused(
        f"the checkpoint changed while it was in use: {checkpoint.path}",
        expected=f"the files that were admitted, digest {checkpoint.digest[:12]}",
        got=trace,
        next_step="wait until training has written the checkpoint in full, then release it again",
    )


def _deciding_files_in(folder: Path, weight_files: Iterable[str]) -> set[str]:
    entries = checkpoint_entries(folder)
    files = (entry.relative_to(folder).as_posix() for entry in entries if entry.is_file())
    return deciding_files(files, weight_files)


def _last_written(checkpoint: Checkpoint) -> str:
    """Name the likely culprit; the time of change counts, because copying may keep the other."""

    def written_ns(name: str) -> int:
        state = (checkpoint.path / name).stat()
        return max(state.st_mtime_ns, state.st_ctime_ns)

    return max(_deciding_files_in(checkpoint.path, checkpoint.weight_files), key=written_ns)
