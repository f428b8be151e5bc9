"""Every kind of bad checkpoint is refused by name, before any weight is read, with a next step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.checkpoint.admit import admit_checkpoint, inspect_checkpoint
from tasks.core.errors import CheckpointRefused
from tests.sample_checkpoint import (
    HIDDEN,
    VOCABULARY,
    change_header,
    change_json,
    change_tensors,
    join_safetensors,
    split_safetensors,
    write_json,
    write_sample_checkpoint,
    write_sharded_checkpoint,
)

Fault = Callable[[Path], object]
PICKLE = b"\x80\x04."
Q0 = "model.layers.0.self_attn.q_proj.weight"


def refused(folder: Path) -> CheckpointRefused:
    with pytest.raises(CheckpointRefused) as caught:
        inspect_checkpoint(folder)
    return caught.value


def without(name: str) -> Fault:
    return lambda folder: (folder / name).unlink()


def with_bytes(name: str, content: bytes = PICKLE) -> Fault:
    return lambda folder: (folder / name).write_bytes(content)


def with_json(name: str, **changes: object) -> Fault:
    return lambda folder: change_json(folder / name, **changes)


def with_tensors(**changes: object) -> Fault:
    return lambda folder: change_tensors(folder, **changes)


def all_of(*faults: Fault) -> Fault:
    return lambda folder: [fault(folder) for fault in faults]


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.json"
    (folder / "config.json").rename(outside)
    (folder / "config.json").symlink_to(outside)


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


FOLDER_FAULTS: dict[str, tuple[Fault, str]] = {
    "own code": (with_bytes("modeling_mine.py"), "brings its own code: modeling_mine.py"),
    "pickle instead": (
        all_of(without("model.safetensors"), with_bytes("pytorch_model.bin")),
        "pickled weights only: pytorch_model.bin",
    ),
    "pickled shards": (
        all_of(without("model.safetensors"), with_bytes("pytorch_model-00001-of-00002.bin")),
        "pickled weights only",
    ),
    "pickle beside": (with_bytes("consolidated.00.pth"), "beside safetensors"),
    "checkpoint of lightning": (with_bytes("last.ckpt"), "last.ckpt"),
    "adapter only": (
        all_of(
            without("model.safetensors"),
            with_bytes("adapter_config.json", b"{}"),
            with_bytes("adapter_model.safetensors"),
        ),
        "LoRA adapter only",
    ),
    "pickled adapter": (
        all_of(without("model.safetensors"), with_bytes("adapter_model.bin")),
        "LoRA adapter only",
    ),
    "adapter beside": (with_bytes("adapter_config.json", b"{}"), "a whole model and an adapter"),
    "no weights": (without("model.safetensors"), "holds no weights"),
    "gguf only": (
        all_of(without("model.safetensors"), with_bytes("m.gguf")),
        "no safetensors weights but m.gguf",
    ),
    "link out of the folder": (link_out, "leads out of the checkpoint folder"),
    "broken link": (lambda f: (f / "x").symlink_to("nowhere"), "a link that leads nowhere"),
    "circular link": (lambda f: (f / "x").symlink_to("x"), "a link that leads nowhere"),
    "pipe": (pipe, "neither a file nor a folder"),
}

CONFIG_FAULTS: dict[str, tuple[Fault, str]] = {
    "missing": (without("config.json"), "has no config.json"),
    "empty": (with_bytes("config.json", b""), "config.json is not valid JSON"),
    "not JSON": (with_bytes("config.json", b"{'a': 1}"), "config.json is not valid JSON"),
    "not UTF-8": (with_bytes("config.json", b'{"a": "\xff"}'), "config.json is not valid JSON"),
    "not an object": (with_bytes("config.json", b"[1]"), "does not hold a JSON object"),
    "a key twice": (with_bytes("config.json", b'{"a": 1, "a": 2}'), "'a' comes twice"),
    "too deep": (with_bytes("config.json", b'{"a":' * 100_000), "not valid JSON"),
    "too large": (with_bytes("config.json", b" " * (8 * 1024**2 + 1)), "is too large"),
    "own code": (
        with_json("config.json", auto_map={"AutoModel": "modeling_mine.Mine"}),
        "config.json has auto_map",
    ),
    "quantised": (
        with_json("config.json", quantization_config={"quant_method": "gptq"}),
        "quantised already",
    ),
    "encoder-decoder": (
        with_json("config.json", architectures=["T5ForConditionalGeneration"]),
        "describes T5ForConditionalGeneration",
    ),
    "encoder-decoder flag": (with_json("config.json", is_encoder_decoder=True), "describes"),
    "vision": (with_json("config.json", vision_config={"depth": 2}), "with vision_config"),
    "classifier": (
        with_json("config.json", architectures=["LlamaForSequenceClassification"]),
        "describes LlamaForSequenceClassification",
    ),
    "no architecture": (with_json("config.json", architectures=None), "architectures: Field"),
    "no hidden size": (with_json("config.json", hidden_size=None), "hidden_size: Field required"),
    "hidden size as text": (with_json("config.json", hidden_size="16"), "hidden_size: Input"),
    "no layers": (with_json("config.json", num_hidden_layers=0), "num_hidden_layers: Input"),
    "heads do not divide": (
        with_json("config.json", num_attention_heads=3),
        "hidden_size and num_attention_heads",
    ),
    "kv heads do not divide": (
        with_json("config.json", num_attention_heads=4, num_key_value_heads=3),
        "num_attention_heads and num_key_value_heads",
    ),
}

CONTRADICTIONS: dict[str, tuple[Fault, str]] = {
    "vocabulary": (with_json("config.json", vocab_size=40), "vocab_size and hidden_size"),
    "hidden size": (with_json("config.json", hidden_size=32), "vocab_size and hidden_size"),
    "heads": (with_json("config.json", num_attention_heads=4, head_dim=8), "num_attention_heads"),
    "kv heads": (with_json("config.json", num_key_value_heads=2), "num_key_value_heads"),
    "inner size": (with_json("config.json", intermediate_size=48), "intermediate_size"),
    "layers too few": (with_json("config.json", num_hidden_layers=1), "num_hidden_layers"),
    "layers too many": (with_json("config.json", num_hidden_layers=3), "model.layers.2."),
    "no head": (with_tensors(lm_head__weight=None), "no tensor lm_head.weight"),
    "no head, family unties": (
        all_of(
            with_tensors(lm_head__weight=None),
            with_json("config.json", tie_word_embeddings=None),
        ),
        "no tensor lm_head.weight",
    ),
    "no embedding": (with_tensors(model__embed_tokens__weight=None), "model.embed_tokens.weight"),
    "a tensor of one layer gone": (
        with_tensors(model__layers__1__mlp__up_proj__weight=None),
        "no tensor model.layers.1.mlp.up_proj.weight",
    ),
    "a bias in one layer only": (
        with_tensors(model__layers__1__self_attn__q_proj__bias=np.zeros(16, np.float32)),
        "layer 1 differs from the first",
    ),
    "integer weights": (
        with_tensors(lm_head__weight=np.zeros((VOCABULARY, HIDDEN), np.int8)),
        "floating-point",
    ),
    "adapter not merged": (
        with_tensors(model__layers__0__self_attn__q_proj__lora_A__weight=np.zeros(2)),
        "an adapter that is not merged",
    ),
}

TOKENIZER_FAULTS: dict[str, tuple[Fault, str]] = {
    "no tokenizer": (without("tokenizer.json"), "has no tokenizer.json"),
    "no tokenizer config": (without("tokenizer_config.json"), "has no tokenizer_config.json"),
    "own code": (
        with_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["a.B", None]}),
        "tokenizer_config.json has auto_map",
    ),
    "beyond the vocabulary": (
        with_json("tokenizer.json", added_tokens=[{"id": VOCABULARY, "content": "x"}]),
        "tokens beyond the model's vocabulary",
    ),
    "no vocabulary": (with_json("tokenizer.json", model={}, added_tokens=[]), "no vocabulary"),
    "strange vocabulary": (with_json("tokenizer.json", added_tokens=[5]), "no vocabulary"),
    "no template": (without("chat_template.jinja"), "has no chat template"),
    "empty template": (
        all_of(
            without("chat_template.jinja"), with_json("tokenizer_config.json", chat_template="")
        ),
        "chat_template is empty",
    ),
    "no default among named templates": (
        with_json("tokenizer_config.json", chat_template=[{"name": "rag", "template": "x"}]),
        "chat_template is empty",
    ),
    "two templates": (
        with_json("tokenizer_config.json", chat_template="{{ messages }}"),
        "two different chat templates",
    ),
    "broken template": (
        with_bytes("chat_template.jinja", b"{% for m in messages %}"),
        "not valid Jinja: line 1",
    ),
    "template not text": (with_bytes("chat_template.jinja", b"\xff\xfe"), "is not UTF-8"),
    "no end": (
        all_of(
            with_json("config.json", eos_token_id=None),
            with_json("generation_config.json", eos_token_id=None),
        ),
        "names no end-of-sequence token",
    ),
    "end outside": (
        with_json("generation_config.json", eos_token_id=[2, VOCABULARY]),
        f"eos_token_id {VOCABULARY} is no token",
    ),
    "temperature as text": (
        with_json("generation_config.json", temperature="hot"),
        "temperature is no number",
    ),
    "temperature not a number": (
        with_json("generation_config.json", temperature=float("nan")),
        "temperature is no number",
    ),
}


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def lengthen(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"\0")


def move_tensor(folder: Path, by: int) -> None:
    header, _ = split_safetensors(folder / "model.safetensors")
    begin, end = header[Q0]["data_offsets"]
    change_header(folder / "model.safetensors", Q0, data_offsets=[begin + by, end + by])


def with_header(**changes: object) -> Fault:
    return lambda folder: change_header(folder / "model.safetensors", Q0, **changes)


def empty_header(folder: Path) -> None:
    join_safetensors(folder / "model.safetensors", {}, b"")


def with_start(content: bytes) -> Fault:
    def plant(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(content + file.read_bytes()[len(content) :])

    return plant


HEADER_FAULTS: dict[str, tuple[Fault, str]] = {
    "no bytes": (with_bytes("model.safetensors", b""), "is cut off inside its header"),
    "cut in the header": (with_bytes("model.safetensors", b"\x40" + bytes(20)), "is cut off"),
    "a pointer of git-lfs": (
        with_bytes("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        "or is no safetensors file",
    ),
    "header is no JSON": (with_start(b"\x10" + bytes(7) + b"hello"), "is not valid JSON"),
    "no tensors": (empty_header, "holds no tensors"),
    "cut in the data": (cut, "is cut off"),
    "bytes too many": (lengthen, "bytes that no tensor claims"),
    "overlap": (lambda folder: move_tensor(folder, -4), "overlaps another tensor"),
    "gap": (lambda folder: move_tensor(folder, 4), "leaves a gap"),
    "unknown dtype": (with_header(dtype="F31"), "F31"),
    "dtype of a wrong type": (with_header(dtype=["F32"]), "a dtype among"),
    "negative shape": (with_header(shape=[-1, -256]), "non-negative integers"),
    "shape too large": (with_header(shape=[2**40, 2**40]), "bytes for F32"),
    "offsets reversed": (with_header(data_offsets=[8, 4]), "bytes for F32"),
    "one offset": (with_header(data_offsets=[8]), "two non-negative data_offsets"),
}


def change_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    write_json(file, index)


def renamed_in_index(name: object) -> Fault:
    return lambda folder: change_index(folder, lambda entries: entries.update({Q0: name}))


SHARD_FAULTS: dict[str, tuple[Fault, str]] = {
    "shard missing": (without("model-00002-of-00002.safetensors"), "00002.safetensors is missing"),
    "no index": (without("model.safetensors.index.json"), "2 shards and no"),
    "no map": (with_json("model.safetensors.index.json", weight_map=None), "has no weight_map"),
    "parent folder": (renamed_in_index("../model.safetensors"), "names the file '../model"),
    "absolute path": (renamed_in_index("/etc/model.safetensors"), "names the file '/etc"),
    "windows path": (renamed_in_index("..\\model.safetensors"), "names the file"),
    "another file": (renamed_in_index("config.json"), "names the file 'config.json'"),
    "no file name": (renamed_in_index(7), "gives no file name"),
    "a tensor moved": (renamed_in_index("model-00001-of-00002.safetensors"), "the tensor"),
    "a tensor unknown to the index": (
        lambda folder: change_index(folder, lambda entries: entries.pop(Q0)),
        "unknown to the index",
    ),
    "a stray shard": (
        with_bytes("model-00003-of-00003.safetensors"),
        "is not named in model.safetensors.index.json",
    ),
    "two sets of weights": (with_bytes("model.safetensors"), "two sets of weights"),
}

FAULTS = {
    f"{group}: {name}": fault
    for group, faults in {
        "folder": FOLDER_FAULTS,
        "config": CONFIG_FAULTS,
        "contradiction": CONTRADICTIONS,
        "tokenizer": TOKENIZER_FAULTS,
        "header": HEADER_FAULTS,
    }.items()
    for name, fault in faults.items()
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_refused_by_name_with_a_next_step(fault: str, tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    inspect_checkpoint(folder)
    plant, words = FAULTS[fault]
    plant(folder)
    problem = refused(folder)
    assert words in str(problem)
    assert problem.next_step
    assert len(str(problem)) < 1000


@pytest.mark.parametrize("fault", SHARD_FAULTS)
def test_fault_in_shards_is_refused_by_name_with_a_next_step(fault: str, tmp_path: Path) -> None:
    folder = write_sharded_checkpoint(tmp_path / "model")
    inspect_checkpoint(folder)
    plant, words = SHARD_FAULTS[fault]
    plant(folder)
    problem = refused(folder)
    assert words in str(problem)
    assert problem.next_step


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    problem = refused(tmp_path / "nothing")
    assert "does not exist" in str(problem)
    assert problem.next_step


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    problem = refused(folder / "model.safetensors")
    assert "is a file" in str(problem)
    assert problem.next_step


def test_path_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    problem = refused(tmp_path / ("n" * 300))
    assert "cannot be read" in str(problem)
    assert problem.next_step


def test_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    open_path = Path.open

    def fail(path: Path, *rest: object, **more: object) -> object:
        if path.name == "model.safetensors":
            raise PermissionError(13, "Permission denied")
        return open_path(path, *rest, **more)

    monkeypatch.setattr(Path, "open", fail)
    problem = refused(folder)
    assert "Permission denied" in str(problem)
    assert problem.next_step


def test_trainer_state_beside_the_weights_is_tolerated(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        (folder / name).write_bytes(PICKLE)
    assert inspect_checkpoint(folder).weights.size_bytes > 0


def test_link_inside_the_folder_is_allowed(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to("config.json")
    assert inspect_checkpoint(folder).eos_token_ids == [2]


def test_folder_behind_a_link_is_allowed(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    (tmp_path / "latest").symlink_to(folder)
    checkpoint = admit_checkpoint(tmp_path / "latest")
    assert (checkpoint.name, checkpoint.path) == ("latest", folder.resolve())


def test_template_inside_the_tokenizer_config_is_found(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    for given in (template, [{"name": "default", "template": template}]):
        change_json(folder / "tokenizer_config.json", chat_template=given)
        assert inspect_checkpoint(folder).chat_template_file == "tokenizer_config.json"


def test_same_template_in_both_places_is_allowed(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    template = (folder / "chat_template.jinja").read_text()
    change_json(folder / "tokenizer_config.json", chat_template=template)
    assert inspect_checkpoint(folder).chat_template_file == "chat_template.jinja"


def test_tags_that_transformers_adds_to_jinja_are_understood(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}"
        "{% endfor %}{% if add_generation_prompt %}a{% endif %}"
    )
    inspect_checkpoint(folder)


def test_unigram_tokenizer_is_measured_by_its_length(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    pieces = [[f"t{index}", -1.0] for index in range(VOCABULARY)]
    change_json(folder / "tokenizer.json", model={"type": "Unigram", "vocab": pieces})
    inspect_checkpoint(folder)
    pieces.append(["one more", -1.0])
    change_json(folder / "tokenizer.json", model={"type": "Unigram", "vocab": pieces})
    assert f"id {VOCABULARY}" in str(refused(folder))


def test_unknown_family_is_admitted_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    change_json(folder / "config.json", model_type="nobody", architectures=["NobodyForCausalLM"])
    assert inspect_checkpoint(folder).architecture.family is None
    assert "family nobody is not known" in caplog.text


def test_missing_generation_config_falls_back_to_config_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_sample_checkpoint(tmp_path / "model")
    (folder / "generation_config.json").unlink()
    inspection = inspect_checkpoint(folder)
    assert (inspection.eos_token_ids, inspection.sampling) == ([2], {})
    assert "answers may not stop" in caplog.text
