"""The digest of a checkpoint covers what decides, and a folder that changed is told from others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.checkpoint_files import checkpoint_digest, require_unchanged
from tasks.core.errors import CheckpointRefused
from tasks.core.records import Checkpoint
from tests.sample_checkpoint import write_sample_checkpoint, write_sharded_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return admit_checkpoint(write_sample_checkpoint(tmp_path / "model"))


def test_digest_has_not_changed_since_the_first_version(tmp_path: Path) -> None:
    """Caches and ledgers hold it."""
    folder = write_sample_checkpoint(tmp_path / "model")
    found = checkpoint_digest(folder, ["model.safetensors"])
    assert found == "a95d7c2cc2c2209d55114a4b75c89a20c4b69851e4e10a084f8def682185895f"


def test_digest_is_the_one_that_admission_gives(tmp_path: Path) -> None:
    folder = write_sharded_checkpoint(tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("not part of the model")
    checkpoint = admit_checkpoint(folder)
    assert checkpoint_digest(folder, checkpoint.weight_files) == checkpoint.digest


def test_same_bytes_written_again_are_no_change(checkpoint: Checkpoint) -> None:
    config = checkpoint.path / "config.json"
    config.write_bytes(config.read_bytes())
    (checkpoint.path / "trainer_state.json").write_text("{}")
    require_unchanged(checkpoint)


def test_overwritten_weights_are_named(checkpoint: Checkpoint) -> None:
    weights = checkpoint.path / "model.safetensors"
    seen = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # size and time tell nothing
    with pytest.raises(CheckpointRefused, match="changed while it was in use") as caught:
        require_unchanged(checkpoint)
    assert caught.value.got == "model.safetensors was written last"


def test_file_that_went_is_named(checkpoint: Checkpoint) -> None:
    (checkpoint.path / "model.safetensors").unlink()
    with pytest.raises(CheckpointRefused, match=r"model\.safetensors"):
        require_unchanged(checkpoint)


def test_file_that_came_is_a_change(checkpoint: Checkpoint) -> None:
    (checkpoint.path / "added_tokens.json").write_text("{}")
    with pytest.raises(CheckpointRefused, match=r"added_tokens\.json was written last"):
        require_unchanged(checkpoint)
