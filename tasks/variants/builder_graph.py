"""The model builder's graph before it is quantised and written, and the tensors that it is made of.

The builder makes a graph whose weights are lazy, and only `save_model` serialises it whole, to
quantise it in another library (6.5 of 16 CPU seconds and 4 of 4.4 GB for a 0.5 B model, 0.18). Here
`save_model` hands the graph over instead. Knows the builder's `Model` class; what is made of the
graph belongs to `fast_graph.py`. Runs in a child only.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
import torch

from tasks.core.imports import collector_off
from tasks.variants.build_records import NotCovered
from tasks.variants.builder_options import BuilderOptions, key_value_arguments

# Written into each model in place of the builder's own stamp: that one adds the commit of whatever
# Git repository lies around the installation, so that the same recipe had other bytes after an
# unrelated commit (0.18, 2026-11).
BUILDER_VERSION = metadata.version("onnxruntime-genai")


@dataclass(frozen=True)
class Stacked:
    """Matrices one below the other, as the builder packs Q, K and V, without a copy of them.

    Stands in for a tensor where the builder asks for shape and transpose only.
    """

    parts: tuple[torch.Tensor, ...]
    is_transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, as a tensor has them."""
        rows, columns = sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]
        return (columns, rows) if self.is_transposed else (rows, columns)

    @property
    def T(self) -> Stacked:  # noqa: N802  (torch's name)
        """The same, transposed."""
        return Stacked(self.parts, not self.is_transposed)


@dataclass(frozen=True)
class _Packed:
    """What the builder takes for a linear layer."""

    weight: Stacked


@dataclass(frozen=True)
class BlockPlan:
    """How the builder would quantise the graph.

    Attributes:
        bits: of every matrix that `bits_of` does not name.
        bits_of: by the name of a MatMul node.
        left_alone: names of nodes that are not quantised.
    """

    algorithm: str
    bits: int
    block_size: int
    is_symmetric: bool
    accuracy_level: int
    bits_of: dict[str, int]
    left_alone: frozenset[str]


@dataclass(frozen=True)
class BuiltGraph:
    """A graph, and for its initializers the tensors of the checkpoint that they come from.

    Attributes:
        sources: by the initializer's name; of its shape. Those that the builder computed or casts
            from a list are not among them.
        plan: None for a graph that is not quantised.
    """

    model: ir.Model
    sources: dict[str, torch.Tensor | Stacked]
    plan: BlockPlan | None


class GraphBuilder:
    """Builds graphs of one checkpoint for several precisions; its weights are mapped once.

    Args:
        checkpoint: Hugging Face folder.
    """

    def __init__(self, checkpoint: str) -> None:
        self._checkpoint = checkpoint
        self._weights: Any = None

    def build(self, folder: Path, call: BuilderOptions) -> BuiltGraph:
        """Build one graph; `folder` gets genai_config.json and the tokenizer, but no model.

        Raises:
            NotCovered: this model's class saves itself in a way of its own.
        """
        with collector_off():
            from onnxruntime_genai.models import builder

        with self._captured() as captured, tempfile.TemporaryDirectory() as cache:
            # A file in it keeps the builder from removing the folder under our feet.
            Path(cache, "in-use").touch()
            place = (self._checkpoint, self._checkpoint, str(folder), call.precision)
            arguments = (*place, call.execution_provider, cache)
            options = builder.parse_extra_options(*arguments, key_value_arguments(call.options))
            builder.create_model(*arguments, **options)
        if captured.maker is None:
            raise NotCovered("the model builder wrote this model without handing its graph over")
        maker = captured.maker
        return BuiltGraph(maker.model, captured.sources, _plan_of(maker))

    @contextlib.contextmanager
    def _captured(self) -> Iterator[_Capture]:
        """Change the builder's class while a graph is made: there is no other way in (0.18)."""
        from builders.base import Model  # onnxruntime_genai.models puts its folder on sys.path

        capture = _Capture(Model.make_initializer)
        changes = {
            "load_weights": self._load_once(Model.load_weights),
            "make_initializer": capture.make_initializer,
            "make_packed_matmul_float_class": _packed_without_a_copy,
            "save_model": capture.save_model,
        }
        kept = {name: vars(Model)[name] for name in changes}
        try:
            for name, function in changes.items():
                setattr(Model, name, _as_method(function))
            yield capture
        finally:
            for name, function in kept.items():
                setattr(Model, name, function)

    def _load_once(self, load: Any) -> Any:
        def load_weights(maker: Any, path: str) -> Any:
            if self._weights is None:
                self._weights = load(maker, path)
            return self._weights

        return load_weights


class _Capture:
    """What a graph's maker does and hands over, instead of writing it."""

    def __init__(self, make: Any) -> None:
        self.maker: Any = None
        self.sources: dict[str, torch.Tensor | Stacked] = {}
        self._make = make

    def make_initializer(self, maker: Any, tensor: Any, /, name: str, **options: Any) -> None:
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.detach()
        if isinstance(tensor, (torch.Tensor, Stacked)) and set(options) == {"to"}:
            self.sources[name] = tensor
        self._make(maker, tensor, name, **options)

    def save_model(self, maker: Any, _folder: str) -> None:
        self.maker = maker


def _packed_without_a_copy(_maker: Any, *layers: Any, **_options: Any) -> _Packed:
    return _Packed(Stacked(tuple(layer.weight.detach() for layer in layers)))


def _as_method(function: Any) -> Any:
    @functools.wraps(function)
    def method(maker: Any, *arguments: Any, **options: Any) -> Any:
        return function(maker, *arguments, **options)

    return method


def _plan_of(maker: Any) -> BlockPlan | None:
    kinds = {ir.DataType.INT4: 4, ir.DataType.UINT4: 4, ir.DataType.INT8: 8, ir.DataType.UINT8: 8}
    if maker.onnx_dtype not in kinds:
        return None
    attributes = cast("dict[str, Any]", maker.quant_attrs)
    if maker.quant_type is not None or attributes["use_qdq"] or maker.exact_quant_override_names:
        raise NotCovered("weights that are quantised already, QDQ nodes, or rules for single nodes")
    return BlockPlan(
        algorithm=maker.quantization_algo,
        bits=attributes["bits"],
        block_size=attributes["matmul_block_size"],
        is_symmetric=attributes["is_symmetric"],
        accuracy_level=attributes["accuracy_level"],
        bits_of={name: c["bits"] for name, c in maker.int4_customized_weight_config.items()},
        left_alone=frozenset(attributes["nodes_to_exclude"]),
    )
