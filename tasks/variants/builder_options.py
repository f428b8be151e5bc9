"""A recipe in the words of the ONNX Runtime GenAI model builder, and nowhere else.

The only module that knows the builder's option names. What a recipe is good for, and whether it
fits a checkpoint, is for `recipes.py` to know.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.core.errors import RecipeRefused, ToolMissing
from tasks.core.records import Precision, Recipe, Record

OptionValue = bool | int | str

BUILDER_PACKAGE = "onnxruntime_genai"
# `options.get("x")`, `options["x"]` and `"x" in options`. Not by parsing: that takes 0.8 s of each
# build, and finds the same names.
_BAG = r"(?:extra_options|kv_pairs)"
_LOOKED_UP = re.compile(
    rf"""\b{_BAG}\s*(?:\.get\(|\[)\s*["'](\w+)["']"""
    rf"""|["'](\w+)["']\s+(?:not\s+)?in\s+(?:[\w.]+\.)?{_BAG}\b"""
)


class BuilderOptions(Record):
    """What the builder is called with.

    Attributes:
        precision: its `--precision`.
        execution_provider: its `--execution_provider`; decides the shape of the graph, not where
            the model runs.
        options: its `--extra_options`.
    """

    precision: str
    execution_provider: str
    options: dict[str, OptionValue]


def builder_options(recipe: Recipe) -> BuilderOptions:
    """Translate a recipe.

    Raises:
        RecipeRefused: the installed builder does not read one of the options.
    """
    made = _translate(recipe)
    require_known_options(made.options)
    return made


def _translate(recipe: Recipe) -> BuilderOptions:
    if recipe.precision is Precision.FP32:
        return BuilderOptions(precision="fp32", execution_provider="cpu", options={})
    if recipe.precision is Precision.FP16:
        # The `cpu` graph in FP16 dies at the second token ("Shape mismatch attempting to re-use
        # buffer", 0.18, 2026-11); the `webgpu` graph is one that the CPU provider can run, once
        # its provider options are emptied and Q/K norms are kept out of GroupQueryAttention.
        return BuilderOptions(
            precision="fp16",
            execution_provider="webgpu",
            options={"fuse_qk_norm_gqa": False},
        )
    options: dict[str, OptionValue] = {
        "block_size": recipe.block_size,
        "is_symmetric": recipe.is_symmetric,
        "algo_config": recipe.algorithm,
        "accuracy_level": recipe.accuracy_level,
    }
    if mixed := _mixed_precision(recipe):
        options["matmul_mixed_precision"] = mixed
    return BuilderOptions(
        precision=recipe.precision.value, execution_provider="cpu", options=options
    )


def _mixed_precision(recipe: Recipe) -> str:
    wanted = {"last_matmul": recipe.int8_head, "mixed_layers": recipe.int8_layers}
    return ",".join(f"{group}:int8" for group, asked in wanted.items() if asked)


def key_value_arguments(options: Mapping[str, OptionValue]) -> list[str]:
    """Write options the way `parse_extra_options` reads them: `key=value`."""
    return [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in options.items()
    ]


def require_known_options(names: Iterable[str]) -> None:
    """Refuse option names that the installed builder never reads.

    The builder ignores unknown names in silence, and with them the old `int4_*` ones that its
    help text still promises: `int4_block_size=128` builds blocks of 32 (0.18, 2026-11).

    Raises:
        RecipeRefused: a name is unknown.
        ToolMissing: the builder is not installed.
    """
    known = known_option_names()
    if unknown := sorted(set(names) - known):
        raise RecipeRefused(
            f"the installed model builder does not read {', '.join(unknown)}",
            expected=f"names among {', '.join(sorted(known))}",
            next_step="correct the option, or install the pinned onnxruntime-genai",
        )


@functools.lru_cache(maxsize=1)
def known_option_names() -> frozenset[str]:
    """Collect every option name that the installed builder's source looks up.

    Read from the source because importing the builder costs seconds and torch.

    Raises:
        ToolMissing: the builder is not installed.
    """
    found: set[str] = set()
    for source in sorted(_builder_folder().rglob("*.py")):
        lines = source.read_text(encoding="utf-8").splitlines()
        code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        found.update(name for match in _LOOKED_UP.finditer(code) for name in match.groups() if name)
    return frozenset(name for name in found if not name.startswith("_"))


def _builder_folder() -> Path:
    spec = importlib.util.find_spec(BUILDER_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (folder := Path(location) / "models").is_dir():
            return folder
    raise ToolMissing(
        f"{BUILDER_PACKAGE} has no model builder",
        next_step="install the pinned onnxruntime-genai package",
    )
