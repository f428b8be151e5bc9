"""What a bucket's listing says: which objects make up which checkpoint, and what state it is in.

Knows names, sizes and versions of objects; brings none of them here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.watch.sighting import READY, Haste, checkpoint_folders
from flows.preflight import QUESTIONS_NAME
from tasks.core.checkpoint_files import deciding_files

# Besides the deciding files and the questions, these change what is said of a checkpoint: weights
# and pickles, code.
_WEIGHTS_OR_CODE = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|pkl|pickle|gguf|py)$|^adapter_config\.json$"
)
# What the file systems of fsspec call the version of an object; one of them is always there.
_VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")

Infos = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Listed:
    """The objects below one folder of a bucket, by their names in it.

    Attributes:
        beside: the questions that lie beside the folder; None without.
    """

    objects: Infos
    beside: dict[str, Any] | None

    @property
    def signature(self) -> str:
        """Changes with any object that has a part in what is said of the checkpoint."""
        ours = sorted(self._ours().items())
        lines = [f"{key}\0{info['size']}\0{_version(info)}" for key, info in ours]
        if self.beside is not None:  # not which: a change of each checkpoint would bring them all
            lines.append(f"../{QUESTIONS_NAME}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def haste(self) -> Haste:
        """Tell whether READY says that nothing more will come."""
        return Haste.READY if _is_ready(self._ours()) else Haste.NONE

    def _ours(self) -> Infos:
        return {key: info for key, info in self.objects.items() if _counts(key)}


def checkpoints_in(root: str, found: Mapping[str, dict[str, Any]]) -> dict[str, Listed]:
    """Group a listing by checkpoint: `NAME` or `NAME/ANYTHING`.

    Args:
        root: the path that was listed.
        found: all objects below it, by their full paths.
    """
    folders: dict[str, Infos] = defaultdict(dict)
    for path, info in found.items():
        parts = path[len(root) :].removeprefix("/").split("/")
        if parts[-1]:  # else the marker of an empty folder
            for depth in range(min(len(parts), 3)):
                folders["/".join(parts[:depth])]["/".join(parts[depth:])] = info
    direct = {
        name: {key for key in objects if "/" not in key}
        for name, objects in folders.items()
        if name
    }
    return {
        name: Listed(folders[name], folders[name.rpartition("/")[0]].get(QUESTIONS_NAME))
        for name in checkpoint_folders(direct)
    }


def _counts(name: str) -> bool:
    """Tell whether an object has a part in what is said of the checkpoint that it lies in."""
    return (
        name in (READY, QUESTIONS_NAME)
        or bool(deciding_files([name], []))
        or ("/" not in name and _WEIGHTS_OR_CODE.search(name) is not None)
        or leads_out(name)
    )


def leads_out(name: str) -> bool:
    """Tell whether an object's name, taken for a file's, could lie outside its folder."""
    return "\\" in name or ":" in name or any(part in ("", ".", "..") for part in name.split("/"))


def _version(info: dict[str, Any]) -> str:
    return json.dumps({key: str(info[key]) for key in _VERSIONS if key in info})


def _is_ready(objects: Infos) -> bool:
    """Tell whether READY was written last; an upload in the order of names writes it first."""
    if READY not in objects:
        return False
    for key in _TIMES:
        if key in objects[READY]:
            own = objects[READY][key]
            return all(own >= info[key] for info in objects.values() if key in info)
    return False
