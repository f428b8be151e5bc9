"""What lies in a checkpoint folder, and what must not: pickles, code, adapters, ways out.

Judges by names and file types alone; no file is opened here, so nothing in one can act.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from tasks.core.checkpoint_files import checkpoint_entries, matches
from tasks.core.errors import CheckpointRefused

_PICKLED_WEIGHTS = (
    "pytorch_model*.bin",
    "adapter_model*.bin",
    "consolidated*.pth",
    "consolidated*.pt",
    "model*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.pickle",
)
# What a trainer leaves beside the weights. Pickles too, but nothing ever opens them.
_TRAINER_STATE = (
    "training_args.bin",
    "optimizer*.pt",
    "optimizer*.bin",
    "scheduler*.pt",
    "scheduler*.bin",
    "scaler*.pt",
    "rng_state*.pth",
    "random_states_*.pkl",
)
_CONVERT = (
    'convert them with `python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('OLD', dtype='auto').save_pretrained('NEW')\"` where you trust them, "
    "and copy the tokenizer files to NEW"
)
_MERGE = (
    "merge the adapter into its base model (peft: `model.merge_and_unload().save_pretrained(DIR)`) "
    "and release that folder"
)


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder and its regular files.

    Attributes:
        path: absolute and free of symbolic links.
        files: paths by name; names below `additional_chat_templates` have a slash.
    """

    path: Path
    files: dict[str, Path]

    def matching(self, *patterns: str) -> list[str]:
        """Give the names that match any of the patterns, sorted; `*` stops at a slash."""
        return sorted(name for name in self.files if matches(name, patterns))


def open_folder(path: Path) -> CheckpointFolder:
    """List a checkpoint folder.

    Raises:
        CheckpointRefused: no such folder, not readable, or an entry leads out of it or is neither
            a file nor a folder.
    """
    try:
        folder = path.expanduser().resolve()
        _refuse_non_folder(folder)
        entries = checkpoint_entries(folder)
    except (OSError, RuntimeError, ValueError) as problem:
        raise CheckpointRefused(
            f"{path} cannot be read: {problem}",
            next_step="check the spelling and the permissions of the path",
        ) from problem
    files = {}
    for entry in entries:
        if _is_regular_file(entry, folder):
            files[entry.relative_to(folder).as_posix()] = entry
    return CheckpointFolder(folder, files)


def refuse_unsafe_content(folder: CheckpointFolder) -> None:
    """Refuse what could run code or is not a whole model.

    Raises:
        CheckpointRefused: Python files, pickled weights, or an adapter.
    """
    if code := folder.matching("*.py"):
        raise CheckpointRefused(
            f"{folder.path} brings its own code: {_some(code)}",
            expected="an architecture that transformers has built in",
            next_step="remove the Python files if the model does not need them; models that do "
            "are not supported, because releasing one would run its code",
        )
    _refuse_adapter(folder)
    _refuse_pickles(folder)


def _refuse_non_folder(folder: Path) -> None:
    if not folder.exists():
        raise CheckpointRefused(
            f"{folder} does not exist",
            expected="a Hugging Face checkpoint folder",
            next_step="check the spelling; names of hub repositories are not downloaded",
        )
    if not folder.is_dir():
        raise CheckpointRefused(
            f"{folder} is a file",
            expected="the folder that holds config.json and the safetensors files",
            next_step="give the folder instead",
        )


def _is_regular_file(entry: Path, folder: Path) -> bool:
    """Tell files from folders; refuse links out of the folder, and pipes, which would block."""
    try:
        target = entry.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as problem:
        raise CheckpointRefused(
            f"{entry} is a link that leads nowhere",
            next_step="copy the real files into the folder (`cp -rL`)",
        ) from problem
    if not target.is_relative_to(folder):
        raise CheckpointRefused(
            f"{entry} leads out of the checkpoint folder, to {target}",
            expected="real files, so that what is checked is what is built",
            next_step="copy the folder with its links resolved (`cp -rL`), or download it with "
            "`hf download REPO --local-dir DIR`",
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CheckpointRefused(
            f"{entry} is neither a file nor a folder", next_step="remove it from the checkpoint"
        )
    return stat.S_ISREG(mode)


def _refuse_adapter(folder: CheckpointFolder) -> None:
    found = folder.matching("adapter_config.json", "adapter_model*")
    if not found:
        return
    if folder.matching("model*.safetensors"):
        # With adapter_config.json there, transformers loads the *base model it names* instead.
        raise CheckpointRefused(
            f"{folder.path} holds a whole model and an adapter: {_some(found)}",
            expected="one or the other",
            next_step="if the adapter is merged already remove the adapter_* files; if not, "
            + _MERGE,
        )
    raise CheckpointRefused(
        f"{folder.path} holds a LoRA adapter only: {_some(found)}",
        expected="a whole model",
        next_step=_MERGE,
    )


def _refuse_pickles(folder: CheckpointFolder) -> None:
    tolerated = set(folder.matching(*_TRAINER_STATE))
    pickles = [name for name in folder.matching(*_PICKLED_WEIGHTS) if name not in tolerated]
    if not pickles:
        return
    if folder.matching("*.safetensors"):
        raise CheckpointRefused(
            f"{folder.path} holds pickled weights beside safetensors: {_some(pickles)}",
            expected="safetensors only: which of the two is the model cannot be told, and loading "
            "a pickle runs code",
            next_step="remove the pickled files",
        )
    raise CheckpointRefused(
        f"{folder.path} holds pickled weights only: {_some(pickles)}",
        expected="safetensors: loading a pickle runs whatever code is in it",
        next_step=_CONVERT,
    )


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
