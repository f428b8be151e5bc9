"""Builds as Olive workflows that a person can read, edit and run by hand.

    PYTHONPATH=<this repository> CI=1 olive run --config c.json --package-config p.json

Writes dictionaries only; running them belongs to `build_child.py`, and what the pass does to
`olive_pass.py` and `fast_pass.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.records import Recipe
from tasks.variants.builder_options import builder_options
from tasks.variants.genai_config import GenaiSettings, read_settings
from tasks.variants.recipes import builder_way, recipe_slug
from tasks.variants.toolchain import toolchain

PLAIN_PASS = "GenAIBuilder"
FAST_PASS = "FastGenAIBuilder"
_PASSES = {
    PLAIN_PASS: "tasks.variants.olive_pass.GenAIBuilder",
    FAST_PASS: "tasks.variants.fast_pass.FastGenAIBuilder",
}


def olive_config(
    checkpoint_path: Path | str,
    recipe: Recipe,
    *,
    output: Path | str,
    cache: Path | str,
    settings: GenaiSettings | None = None,
) -> dict[str, Any]:
    """Describe one build as an Olive run configuration, in the recipe's way.

    Args:
        checkpoint_path: Hugging Face folder. A local one: Olive asks the hub about a name.
        recipe: what to build.
        output: folder that Olive copies the finished model to.
        cache: Olive's cache folder. Private to one build: two at once on the same key lost
            model.onnx.data once in two trials, and a hit is not checked (0.13.0, 2026-11).
        settings: what genai_config.json shall say; read from the checkpoint when left out.

    Raises:
        RecipeRefused: the installed builder does not read one of the options.
    """
    if builder_way(recipe)[0] == "fast":
        step = _fast_step([recipe])
    else:
        call = builder_options(recipe)
        step = {
            "type": PLAIN_PASS,
            "precision": call.precision,
            "builder_ep": call.execution_provider,
            "options": call.options,
        }
    wanted = settings or read_settings(Path(checkpoint_path))
    return _workflow(checkpoint_path, step, wanted, output, cache)


def fan_out_config(
    checkpoint_path: Path | str,
    recipes: list[Recipe],
    *,
    models: Path | str,
    output: Path | str,
    cache: Path | str,
    settings: GenaiSettings,
) -> dict[str, Any]:
    """Describe several fast builds as one Olive run; `models` gets a folder for each slug.

    Olive copies its pass's output twice; what is written to a folder of its own it leaves there.
    """
    step = {**_fast_step(recipes), "folder": str(models)}
    return _workflow(checkpoint_path, step, settings, output, cache)


def _fast_step(recipes: list[Recipe]) -> dict[str, Any]:
    calls = {recipe_slug(r): builder_options(r).model_dump(mode="json") for r in recipes}
    return {"type": FAST_PASS, "variants": calls}


def _workflow(
    checkpoint_path: Path | str,
    step: dict[str, Any],
    settings: GenaiSettings,
    output: Path | str,
    cache: Path | str,
) -> dict[str, Any]:
    return {
        "input_model": {"type": "HfModel", "model_path": str(checkpoint_path)},
        "systems": {
            "local_system": {
                "type": "LocalSystem",
                "accelerators": [
                    {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
                ],
            }
        },
        "passes": {
            "builder": {
                **step,
                "genai_config": settings.model_dump(mode="json"),
                "toolchain": toolchain(),
            }
        },
        "host": "local_system",
        "target": "local_system",
        "cache_dir": str(cache),
        "output_dir": str(output),
        "no_artifacts": True,
        "log_severity_level": 1,
    }


def package_config() -> dict[str, Any]:
    """Tell Olive where our passes are; goes with a configuration as `--package-config`."""
    return {
        "passes": {
            name: {
                "module_path": path,
                "supported_providers": ["*"],
                "supported_accelerators": ["*"],
                "supported_precisions": ["*"],
            }
            for name, path in _PASSES.items()
        }
    }
