"""Which safetensors files make up the model, and whether their index tells the truth.

Knows file and tensor names; what shapes an architecture needs is `architecture.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from tasks.checkpoint.folder import CheckpointFolder
from tasks.checkpoint.json_file import read_json_object
from tasks.checkpoint.safetensors_header import Shard, TensorEntry, read_shard
from tasks.core.errors import CheckpointIncomplete, CheckpointRefused

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARDS = "model-*-of-*.safetensors"
_SAVE_AGAIN = "save the checkpoint again with `save_pretrained`, or copy it again in full"


@dataclass(frozen=True)
class Weights:
    """The files in use, in name order, and every tensor in them by name."""

    shards: tuple[Shard, ...]

    @property
    def tensors(self) -> dict[str, TensorEntry]:
        """All tensors by name."""
        return {tensor.name: tensor for shard in self.shards for tensor in shard.tensors}

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return sum(shard.size_bytes for shard in self.shards)

    def locate(self, name: str) -> tuple[Path, TensorEntry]:
        """Give a tensor and the file that it is in."""
        return next(
            (shard.path, tensor)
            for shard in self.shards
            for tensor in shard.tensors
            if tensor.name == name
        )


def read_weights(folder: CheckpointFolder) -> Weights:
    """Find the safetensors files and read their headers.

    Raises:
        CheckpointIncomplete: no weights, a shard missing, or a file cut off.
        CheckpointRefused: two sets of them, a shard outside the folder, or an index that
            contradicts the shards.
    """
    names = weight_files(folder)
    weights = Weights(tuple(read_shard(folder.files[name]) for name in names))
    if names != [SINGLE]:
        files_by_tensor = _weight_map(folder)
        for shard in weights.shards:
            _compare_index(folder, shard, files_by_tensor)
    return weights


def weight_files(folder: CheckpointFolder) -> list[str]:
    """Give the names of the safetensors files in use, by their names and the index alone.

    Raises:
        CheckpointIncomplete: no weights, or a shard missing.
        CheckpointRefused: two sets of them, or a shard outside the folder.
    """
    single, index = SINGLE in folder.files, INDEX in folder.files
    if single and index:
        raise CheckpointRefused(
            f"{folder.path} holds two sets of weights: {SINGLE} and {INDEX}",
            expected="one: which of them is the model cannot be told",
            next_step="remove the older one",
        )
    if single:
        return [SINGLE]
    if not index:
        raise _no_weights(folder)
    return _shards(folder)


def _no_weights(folder: CheckpointFolder) -> CheckpointRefused:
    if shards := folder.matching(_SHARDS):
        return CheckpointIncomplete(
            f"{folder.path} holds {len(shards)} shards and no {INDEX}", next_step=_SAVE_AGAIN
        )
    if other := folder.matching("*.gguf", "*.onnx", "*.h5", "*.msgpack"):
        return CheckpointRefused(
            f"{folder.path} holds no safetensors weights but {other[0]}",
            expected=f"{SINGLE}, or shards with {INDEX}",
            next_step="release the Hugging Face checkpoint that it was made from",
        )
    return CheckpointIncomplete(
        f"{folder.path} holds no weights",
        expected=f"{SINGLE}, or shards with {INDEX}",
        next_step=_SAVE_AGAIN,
    )


def _shards(folder: CheckpointFolder) -> list[str]:
    names = sorted(set(_weight_map(folder).values()))
    for name in names:
        _refuse_shard_name(name)
    if missing := [name for name in names if name not in folder.files]:
        raise CheckpointIncomplete(
            f"{folder.path / missing[0]} is missing, though {INDEX} names it",
            expected=f"{len(names)} shards",
            got=f"{len(names) - len(missing)} of them",
            next_step=_SAVE_AGAIN,
        )
    if strays := sorted(set(folder.matching(_SHARDS)) - set(names)):
        raise CheckpointRefused(
            f"{folder.path / strays[0]} is not named in {INDEX}",
            expected="shards of one save only",
            next_step="remove the shards of the other save, or save again into an empty folder",
        )
    return names


def _weight_map(folder: CheckpointFolder) -> dict[str, str]:
    index = read_json_object(folder.files[INDEX])
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointRefused(
            f"{folder.files[INDEX]} has no weight_map",
            expected="tensor names with the file that each is in",
            next_step=_SAVE_AGAIN,
        )
    for tensor, file in found.items():
        if not isinstance(file, str):
            raise CheckpointRefused(
                f"{folder.files[INDEX]} gives no file name for tensor {tensor!r}",
                got=str(file)[:200],
                next_step=_SAVE_AGAIN,
            )
    return found


def _refuse_shard_name(name: str) -> None:
    plain = name == PurePosixPath(name).name == PureWindowsPath(name).name
    if not plain or not name.endswith(".safetensors"):
        raise CheckpointRefused(
            f"{INDEX} names the file {name!r}",
            expected="a safetensors file in the checkpoint folder itself",
            next_step="do not use this checkpoint unless you trust where it is from; "
            "then save it again with `save_pretrained`",
        )


def _compare_index(folder: CheckpointFolder, shard: Shard, files_by_tensor: dict[str, str]) -> None:
    file = shard.path.name
    promised = {tensor for tensor, owner in files_by_tensor.items() if owner == file}
    present = {tensor.name for tensor in shard.tensors}
    if promised != present:
        fault = "lacks" if promised - present else "has, unknown to the index,"
        tensor = min((promised - present) or (present - promised))
        raise CheckpointRefused(
            f"{folder.path / file} {fault} the tensor {tensor!r}",
            expected=f"the tensors that {INDEX} names for it",
            next_step=_SAVE_AGAIN,
        )
