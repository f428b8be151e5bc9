"""Digests of checkpoints that were read before, so that looking through a folder costs no reading.

As git does: a file with the same size, times and inode is taken for the same file. Good enough to
choose a checkpoint by, never to name one: a release reads every byte again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.checkpoint_files import FileState, file_states
from tasks.core.files import write_text_atomically
from tasks.core.records import Digest, Record
from tasks.core.reservations import reserve_reading

log = logging.getLogger(__name__)


class Known(Record):
    """What was read in a checkpoint folder.

    Attributes:
        files: that were in it then.
    """

    files: list[FileState]
    digest: Digest


class _Memory(Record):
    folders: dict[str, Known]


class KnownDigests:
    """The digests of checkpoint folders, remembered in one JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = _read(file)

    def digest_of(self, folder: Path) -> str:
        """Give a checkpoint's digest; reads it in full when it is new or has changed.

        Raises:
            CheckpointRefused: it cannot be released.
            ResourceBusy: it changed meanwhile.
            OSError: it cannot be read.
        """
        files = file_states(folder)
        known = self._known.get(str(folder))
        if known is None or known.files != files:
            with reserve_reading(step=f"read {folder.name}"):
                digest = admit_checkpoint(folder, name="any").digest
            known = self._known[str(folder)] = Known(files=files, digest=digest)
        return known.digest

    def save(self, folders: Iterable[Path]) -> None:
        """Write down what is known of these folders, and forget the others."""
        kept = {str(folder) for folder in folders}
        memory = _Memory(folders={k: v for k, v in sorted(self._known.items()) if k in kept})
        write_text_atomically(self._file, memory.model_dump_json(indent=1) + "\n")


def _read(file: Path) -> dict[str, Known]:
    try:
        return dict(_Memory.model_validate_json(file.read_bytes()).folders)
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as problem:  # only costs time
        log.warning("%s cannot be read, checkpoints are read again: %s", file, problem)
        return {}
