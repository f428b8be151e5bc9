"""One build as an Olive workflow that a person can read, edit and run by hand.

    PYTHONPATH=<this repository> CI=1 olive run --config c.json --package-config p.json

Writes dictionaries only; running them belongs to `build_child.py`, and what the pass does to
`olive_pass.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.records import Recipe
from tasks.variants.builder_options import builder_options
from tasks.variants.genai_config import GenaiSettings, read_settings
from tasks.variants.toolchain import toolchain

PASS_NAME = "GenAIBuilder"
PASS_PATH = "tasks.variants.olive_pass.GenAIBuilder"


def olive_config(
    checkpoint_path: Path | str,
    recipe: Recipe,
    *,
    output: Path | str,
    cache: Path | str,
    settings: GenaiSettings | None = None,
) -> dict[str, Any]:
    """Describe one build as an Olive run configuration.

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
    call = builder_options(recipe)
    wanted = settings or read_settings(Path(checkpoint_path))
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
                "type": PASS_NAME,
                "precision": call.precision,
                "builder_ep": call.execution_provider,
                "options": call.options,
                "genai_config": wanted.model_dump(mode="json"),
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
    """Tell Olive where our pass is; goes with `olive_config` as `--package-config`."""
    return {
        "passes": {
            PASS_NAME: {
                "module_path": PASS_PATH,
                "supported_providers": ["*"],
                "supported_accelerators": ["*"],
                "supported_precisions": ["*"],
            }
        }
    }
