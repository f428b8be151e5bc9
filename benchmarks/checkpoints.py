"""Random checkpoints of Qwen2.5's shape in bfloat16, 0.1 to 3 billion parameters.

Written once into the work folder, shard by shard, so that 3 B need no more memory than 0.5 B. What
such a model says is noise; what it costs is what a trained one of that shape costs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.places import Work
from benchmarks.records import Model, NotMeasured
from benchmarks.runner import cost_of, python, tell
from tasks.core.records import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = 151_936
CONTEXT = 32_768
SHARD_BYTES = 2 * 1000**3
_STANDARD_DEVIATION = 0.02  # Qwen2's initializer_range
_SPARE_BYTES = 2 * 1000**3


@dataclass(frozen=True)
class Shape:
    """What decides the number of parameters; embeddings are tied, as Qwen2.5's are up to 3 B."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def parameters(self) -> int:
        """Count the weights."""
        return sum(_count(shape) for _, shape in tensors_of(self))


# 0.5, 1.5 and 3 B are Qwen2.5's own shapes, the others lie between and below them.
SHAPES = {
    0.1: Shape(512, 1536, 8, 8, 2),
    0.25: Shape(768, 2304, 20, 12, 2),
    0.5: Shape(896, 4864, 24, 14, 2),
    1.0: Shape(1280, 6400, 28, 20, 4),
    1.5: Shape(1536, 8960, 28, 12, 2),
    3.0: Shape(2048, 11008, 36, 16, 2),
}


def tensors_of(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name every tensor with its dimensions."""
    head = shape.hidden // shape.heads
    yield "model.embed_tokens.weight", (VOCABULARY, shape.hidden)
    for number in range(shape.layers):
        layer = f"model.layers.{number}"
        for name, rows in (
            ("q", shape.heads * head),
            ("k", shape.kv_heads * head),
            ("v", shape.kv_heads * head),
        ):
            yield f"{layer}.self_attn.{name}_proj.weight", (rows, shape.hidden)
            yield f"{layer}.self_attn.{name}_proj.bias", (rows,)
        yield f"{layer}.self_attn.o_proj.weight", (shape.hidden, shape.heads * head)
        yield f"{layer}.mlp.gate_proj.weight", (shape.intermediate, shape.hidden)
        yield f"{layer}.mlp.up_proj.weight", (shape.intermediate, shape.hidden)
        yield f"{layer}.mlp.down_proj.weight", (shape.hidden, shape.intermediate)
        yield f"{layer}.input_layernorm.weight", (shape.hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (shape.hidden,)
    yield "model.norm.weight", (shape.hidden,)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for dimension in shape:
        total *= dimension
    return total


def checkpoint_of(size: float, work: Work) -> Model:
    """Give the checkpoint of a size, written and admitted if it is not there yet.

    Raises:
        NotMeasured: no such size, or no room for it.
    """
    if size not in SHAPES:
        raise NotMeasured(f"no shape of {size} B; there are {', '.join(map(str, SHAPES))}")
    model = place_of(size, work)
    if not model.record.is_file():
        _require_room(2 * SHAPES[size].parameters, work)
        tell(f"writing a random checkpoint of {size:g} B parameters")
        cost_of(python("benchmarks.checkpoints", size, model.folder, model.record), work)
    return model


def place_of(size: float, work: Work) -> Model:
    """Name the files of a size, whether or not they are there."""
    name = f"{size:g}b"  # no suffix: that of 0.5b would be ".5b"
    return Model(
        size=size, folder=work.checkpoints / name, record=work.checkpoints / f"{name}.json"
    )


def record_of(model: Model) -> Checkpoint:
    """Give the checkpoint as it was admitted."""
    return Checkpoint.model_validate_json(model.record.read_text(encoding="utf-8"))


def _require_room(needed: int, work: Work) -> None:
    work.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work.root).free
    if free < needed + _SPARE_BYTES:
        raise NotMeasured(f"{free / 1e9:.1f} GB of disk are free, {needed / 1e9:.1f} GB needed")


def write(size: float, folder: Path, record: Path) -> None:
    """Write the checkpoint of a size, and its record last: it exists when all is there."""
    from tasks.checkpoint.admit import admit_checkpoint
    from tests.tiny_models import write_tiny_checkpoint

    shutil.rmtree(folder, ignore_errors=True)
    write_tiny_checkpoint(folder, "qwen2", tied=True)  # for the tokenizer and the template
    (folder / "model.safetensors").unlink()
    shape = SHAPES[size]
    _change_config(folder / "config.json", shape)
    _write_weights(folder, shape)
    shutil.copy(_demo_questions(), folder / "questions.jsonl")
    checkpoint = admit_checkpoint(folder, name=f"random-{size:g}b")
    record.write_text(checkpoint.model_dump_json(indent=1), encoding="utf-8")


def _demo_questions() -> Path:
    from benchmarks.places import ROOT

    return ROOT / "demo" / "questions.jsonl"


def _change_config(file: Path, shape: Shape) -> None:
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for layered in ("layer_types", "max_window_layers"):
        config.pop(layered, None)
    config |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
    }
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_weights(folder: Path, shape: Shape) -> None:
    import torch
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(0)
    shards = list(_shards(shape))
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        name = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05}-of-{len(shards):05}.safetensors"
        )
        tensors = {tensor: _random(tensor, dimensions, draw) for tensor, dimensions in names}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": 2 * shape.parameters}, "weight_map": places}
        text = json.dumps(index, indent=2)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _shards(shape: Shape) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    shard: list[tuple[str, tuple[int, ...]]] = []
    size = 0
    for name, dimensions in tensors_of(shape):
        if shard and size + 2 * _count(dimensions) > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append((name, dimensions))
        size += 2 * _count(dimensions)
    yield shard


def _random(name: str, dimensions: tuple[int, ...], draw: Any) -> Tensor:
    import torch

    if name.endswith("norm.weight"):
        return torch.ones(dimensions, dtype=torch.bfloat16)
    found: Tensor = torch.empty(dimensions, dtype=torch.bfloat16)
    return found.normal_(0, _STANDARD_DEVIATION, generator=draw)


def main() -> int:
    """Write one checkpoint: a process of its own, so that torch is in no other."""
    parser = argparse.ArgumentParser(description="Write a random checkpoint.")
    parser.add_argument("size", type=float)
    parser.add_argument("folder", type=Path)
    parser.add_argument("record", type=Path)
    asked = parser.parse_args()
    write(asked.size, asked.folder, asked.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
