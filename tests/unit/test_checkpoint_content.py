"""Admission reads every weight once, in bounded memory, and gives a digest that tells the truth."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tasks.checkpoint import admit, content_scan
from tasks.checkpoint.admit import admit_checkpoint, choose_name
from tasks.checkpoint.content_scan import scan_shard
from tasks.checkpoint.safetensors_header import read_shard
from tasks.core.errors import CheckpointRefused, InputError, ResourceBusy
from tests.sample_checkpoint import (
    HIDDEN,
    VOCABULARY,
    change_json,
    change_tensors,
    join_safetensors,
    sample_tensors,
    write_json,
    write_sample_checkpoint,
    write_sharded_checkpoint,
)

NOT_FINITE = {
    "F64 NaN": ("F64", 0x7FF8_0000_0000_0000, 8),
    "F64 infinity": ("F64", 0x7FF0_0000_0000_0000, 8),
    "F32 NaN": ("F32", 0x7FC0_0000, 4),
    "F32 negative infinity": ("F32", 0xFF80_0000, 4),
    "F16 NaN": ("F16", 0x7E00, 2),
    "F16 infinity": ("F16", 0x7C00, 2),
    "BF16 NaN": ("BF16", 0xFFC0, 2),
    "BF16 infinity": ("BF16", 0x7F80, 2),
    "E5M2 infinity": ("F8_E5M2", 0xFC, 1),
    "E4M3 NaN": ("F8_E4M3", 0x7F, 1),
}
LARGEST_FINITE = {
    "F64": 0x7FEF_FFFF_FFFF_FFFF,
    "F32": 0x7F7F_FFFF,
    "F16": 0xFBFF,
    "BF16": 0x7F7F,
    "F8_E5M2": 0x7B,
    "F8_E4M3": 0xFE,
}


def write_one_tensor(file: Path, dtype: str, values: list[int], size: int) -> Path:
    data = b"".join(value.to_bytes(size, "little") for value in values)
    entry = {"dtype": dtype, "shape": [len(values)], "data_offsets": [0, len(data)]}
    join_safetensors(file, {"layer.weight": entry}, data)
    return file


def test_sound_checkpoint_is_admitted_with_what_it_is(tmp_path: Path) -> None:
    checkpoint = admit_checkpoint(write_sample_checkpoint(tmp_path / "My Model v2"))
    tensors = sample_tensors()
    assert checkpoint.name == "my-model-v2"
    assert (checkpoint.family, checkpoint.architecture) == ("llama", "LlamaForCausalLM")
    assert checkpoint.parameters == sum(tensor.size for tensor in tensors.values())
    assert checkpoint.weight_dtype == "F32"
    assert (checkpoint.kv_heads, checkpoint.head_size, checkpoint.layers) == (1, 8, 2)
    assert checkpoint.eos_token_ids == [2, 0]
    assert checkpoint.sampling == {"temperature": 0.7}
    assert not checkpoint.tied_embeddings


def test_sharded_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    whole = admit_checkpoint(write_sample_checkpoint(tmp_path / "whole"))
    sharded = admit_checkpoint(write_sharded_checkpoint(tmp_path / "sharded"))
    assert len(sharded.weight_files) == 2
    assert sharded.parameters == whole.parameters
    assert sharded.digest != whole.digest


def test_tied_head_is_counted_once(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model", tied=True)
    alone = admit_checkpoint(folder)
    change_tensors(folder, lm_head__weight=sample_tensors()["model.embed_tokens.weight"])
    with_copy = admit_checkpoint(folder)
    assert alone.tied_embeddings
    assert with_copy.tied_embeddings
    assert with_copy.parameters == alone.parameters


def test_other_head_in_a_tied_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model", tied=True)
    head = sample_tensors()["model.embed_tokens.weight"].copy()
    head[-1, -1] += 1
    change_tensors(folder, lm_head__weight=head)
    with pytest.raises(CheckpointRefused, match=r"another one in lm_head\.weight") as caught:
        admit_checkpoint(folder)
    assert caught.value.next_step


@pytest.mark.parametrize("kind", NOT_FINITE)
def test_value_that_is_not_finite_is_refused_with_its_place(kind: str, tmp_path: Path) -> None:
    dtype, bits, size = NOT_FINITE[kind]
    values = [LARGEST_FINITE[dtype], 0, bits, bits]
    file = write_one_tensor(tmp_path / "model.safetensors", dtype, values, size)
    with pytest.raises(CheckpointRefused, match=r"layer\.weight .* at element 2") as caught:
        scan_shard(read_shard(file))
    assert f"bits {bits:#x}" in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize("dtype", LARGEST_FINITE)
def test_largest_finite_value_passes(dtype: str, tmp_path: Path) -> None:
    size = next(size for kind, _, size in NOT_FINITE.values() if kind == dtype)
    file = write_one_tensor(tmp_path / "a", dtype, [LARGEST_FINITE[dtype], 0], size)
    assert scan_shard(read_shard(file)) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_integers_of_all_bits_are_no_infinity(tmp_path: Path) -> None:
    file = write_one_tensor(tmp_path / "a", "I32", [0x7F80_0000, 0xFFFF_FFFF], 4)
    scan_shard(read_shard(file))


@pytest.mark.parametrize("place", [0, 7, 8, 20, 24])
def test_infinity_is_found_in_whichever_chunk_it_is(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_scan, "CHUNK_BYTES", 32)
    values = [0] * 25
    values[place] = 0x7F80_0000
    file = write_one_tensor(tmp_path / "a", "F32", values, 4)
    with pytest.raises(CheckpointRefused, match=f"at element {place}"):
        scan_shard(read_shard(file))


def test_chunks_hash_like_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_sample_checkpoint(tmp_path / "model") / "model.safetensors"
    monkeypatch.setattr(content_scan, "CHUNK_BYTES", 64)
    assert scan_shard(read_shard(file)) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_nan_in_a_shard_is_refused_with_tensor_and_file(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    norm = np.ones(HIDDEN, np.float32)
    norm[3] = np.nan
    change_tensors(folder, model__norm__weight=norm)
    with pytest.raises(CheckpointRefused, match=r"model\.safetensors: tensor model\.norm\.weight"):
        admit_checkpoint(folder)


def test_digest_is_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    first = write_sample_checkpoint(tmp_path / "here")
    second = shutil.copytree(first, tmp_path / "far" / "away")
    os.utime(second / "config.json", (0, 0))
    assert admit_checkpoint(first).digest == admit_checkpoint(second, name="other").digest


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ],
)
def test_digest_changes_with_one_byte_of_a_deciding_file(name: str, tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    before = admit_checkpoint(folder).digest
    with (folder / name).open("ab") as stream:
        stream.write(b"\n")
    assert admit_checkpoint(folder).digest != before


def test_digest_changes_with_one_bit_of_a_weight(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    before = admit_checkpoint(folder).digest
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-4] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert admit_checkpoint(folder).digest != before


def test_digest_changes_with_a_file_that_comes_or_gets_another_name(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    digests = [admit_checkpoint(folder).digest]
    (folder / "added_tokens.json").write_text("{}")
    digests.append(admit_checkpoint(folder).digest)
    (folder / "added_tokens.json").rename(folder / "special_tokens_map.json")
    digests.append(admit_checkpoint(folder).digest)
    assert len(set(digests)) == 3


def test_digest_covers_named_templates(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    before = admit_checkpoint(folder).digest
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    assert admit_checkpoint(folder).digest != before


def test_digest_leaves_out_what_decides_nothing(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    before = admit_checkpoint(folder).digest
    (folder / "README.md").write_text("changed")
    (folder / "training_args.bin").write_bytes(b"\x80")
    assert admit_checkpoint(folder).digest == before


def test_file_that_changes_meanwhile_is_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    monkeypatch.setattr(
        admit,
        "_refuse_untied_head",
        lambda inspection: change_json(folder / "config.json", torch_dtype="float32"),
    )
    with pytest.raises(ResourceBusy, match="changed while it was read"):
        admit_checkpoint(folder)


def test_file_that_becomes_shorter_meanwhile_is_for_later(tmp_path: Path) -> None:
    shard = read_shard(write_sample_checkpoint(tmp_path / "model") / "model.safetensors")
    os.truncate(shard.path, shard.size_bytes - 1)
    with pytest.raises(ResourceBusy, match="became shorter"):
        scan_shard(shard)


def test_admission_leaves_no_file_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sharded_checkpoint(tmp_path / "model")
    for name in ("temporary", "home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INGOT_HOME", str(tmp_path / "home" / "ingot"))
    monkeypatch.chdir(tmp_path / "here")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    admit_checkpoint(folder)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_progress_says_how_far_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(admit, "SAY_EVERY_BYTES", 4096)
    admit_checkpoint(write_sample_checkpoint(tmp_path / "model"), say=heard.append)
    assert heard[0] == "reading structure"
    assert 2 < sum(line.startswith("checking weights") for line in heard) < 10


def test_large_file_is_scanned_in_bounded_memory(tmp_path: Path) -> None:
    """A sparse file of 512 MiB, read by a process that stays below 150 MiB."""
    size = 512 * 1024**2
    header = {"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}
    file = tmp_path / "model.safetensors"
    join_safetensors(file, header, b"")
    os.truncate(file, file.stat().st_size + size)
    code = (
        "import sys; from pathlib import Path\n"
        "from tasks.checkpoint.content_scan import scan_shard\n"
        "from tasks.checkpoint.safetensors_header import read_shard\n"
        "from tasks.core.child_main import peak_rss_bytes\n"
        "scan_shard(read_shard(Path(sys.argv[1])))\n"
        "print(peak_rss_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert int(done.stdout) < 150 * 1024**2


def test_wide_vocabulary_is_measured_by_the_highest_id(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    write_json(
        folder / "tokenizer.json",
        {"model": {"vocab": {"a": 0, "b": VOCABULARY - 1}}, "added_tokens": []},
    )
    assert admit_checkpoint(folder).vocabulary_size == VOCABULARY


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My Model", "my-model"), ("-a_b.c-", "a_b.c"), ("Größe 1", "gr-e-1"), ("x" * 300, "x" * 100)],
)
def test_name_is_made_of_the_folder(folder: str, name: str) -> None:
    assert choose_name(None, Path("/models") / folder) == name


def test_given_name_is_lowered() -> None:
    assert choose_name("Home-1.5", Path("/models/other")) == "home-1.5"


@pytest.mark.parametrize("name", ["", "a b", "org/model", "-a", ".a", "a:1", "é", "x" * 101, "a\n"])
def test_given_name_against_the_rule_is_refused_with_a_next_step(name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name") as caught:
        choose_name(name, Path("/models/other"))
    assert caught.value.next_step


def test_folder_without_a_usable_name_asks_for_one() -> None:
    with pytest.raises(InputError) as caught:
        choose_name(None, Path("/models/模型"))
    assert "choose a name" in caught.value.next_step


def test_record_survives_json(tmp_path: Path) -> None:
    checkpoint = admit_checkpoint(write_sample_checkpoint(tmp_path / "model"))
    assert type(checkpoint).model_validate(json.loads(checkpoint.model_dump_json())) == checkpoint
