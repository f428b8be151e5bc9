"""What a place shows at one look: which of its folders are checkpoints, and what each is like.

Knows names; whether a checkpoint is whole is for the place to find out, when it is due for the
lander to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

READY = "READY"

# What a folder is taken for a checkpoint by, once one of them lies directly in it.
_SIGNS = (
    "config.json",
    "tokenizer.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "adapter_config.json",
    READY,
)
# Hidden ones, and what copying programs and trainers call a folder that is not done; and the one
# that a file system keeps for itself.
_UNFINISHED = re.compile(
    r"^\.|^lost\+found$|^tmp-checkpoint-|\.(partial|part|tmp|temp|incomplete|filepart|crdownload)$|~$",
    re.IGNORECASE,
)


class Haste(StrEnum):
    """What says, beside the quiet, that nothing more will come."""

    NONE = "none"
    RENAMED = "renamed"
    READY = "ready"


@dataclass(frozen=True)
class Sighting:
    """A checkpoint folder as it was at one look.

    Attributes:
        key: its absolute path or URL.
        named_after: the folder that the release is called after, the first one below the place.
        signature: changes with any name, size or time of change below the folder, and when
            questions come to lie beside it.
    """

    key: str
    named_after: str
    signature: str
    haste: Haste = Haste.NONE


@dataclass(frozen=True)
class Landed:
    """A whole checkpoint, read in full.

    Attributes:
        path: absolute; on this machine, also when it came from a bucket.
        size_bytes: of its weights.
        has_questions: in the folder or beside it.
    """

    path: Path
    name: str
    digest: str
    size_bytes: int
    has_questions: bool

    @property
    def what(self) -> tuple[str, str, bool]:
        """Give what it is, wherever it lies; as `Announcement.what`."""
        return self.digest, self.name, self.has_questions


class Place(Protocol):
    """Somewhere checkpoints land."""

    @property
    def address(self) -> str:
        """Path or URL, without secrets."""

    @property
    def quiet_s(self) -> float:
        """How long a folder must stay as it is, in seconds."""

    @property
    def every_s(self) -> float:
        """How often to look when nothing tells of changes, in seconds."""

    def look(self) -> list[Sighting]:
        """Give the checkpoint folders as they are now.

        Raises:
            OSError: the place cannot be read.
        """

    def take_in(self, sighting: Sighting) -> Landed:
        """Check a checkpoint and read it in full.

        Raises:
            CheckpointIncomplete: a part is missing or cut off.
            InputError: it cannot be released.
            ResourceBusy: it is no longer what was seen.
            EnvironmentUnfit: this machine cannot take it.
            OSError: it cannot be read.
        """


def is_unfinished(name: str) -> bool:
    """Tell whether a folder's name says that it is hidden or still being made."""
    return not name or _UNFINISHED.search(name) is not None


def is_checkpoint(files: Set[str]) -> bool:
    """Tell whether a folder is one, or is becoming one, by the names of the files in it."""
    return any(fnmatchcase(name, sign) for name in files for sign in _SIGNS)


def checkpoint_folders(files: Mapping[str, Set[str]]) -> list[str]:
    """Choose the checkpoints among the folders of a place.

    These are NAME and NAME/ANYTHING; below a checkpoint none is looked for.

    Args:
        files: names of the files directly in each folder, by the folder's name, `a` or `a/b`.
    """
    found = {folder for folder, names in files.items() if is_checkpoint(names)}
    return sorted(
        folder
        for folder in found
        if not any(is_unfinished(part) for part in folder.split("/"))
        and folder.rpartition("/")[0] not in found
    )
