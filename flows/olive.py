"""`ingot olive-config`: what a build runs, for reading, editing and running by hand.

Only composes; the configuration is made in `tasks/variants`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.checkpoint.admit import inspect_checkpoint
from tasks.core.files import write_text_atomically
from tasks.core.records import BuilderWay, Precision, Profile, Recipe
from tasks.variants.olive_config import olive_config, package_config
from tasks.variants.recipes import REFERENCE, plan_recipes

DEFAULT_OUTPUT = "olive-output"


def configuration(
    checkpoint: Path,
    precision: Precision,
    profile: Profile,
    overrides: Mapping[str, Any],
    folder: Path | None,
    builder: BuilderWay = "fast",
) -> str:
    """Give the Olive configuration as JSON; with a folder, write it there and say how to run it.

    Raises:
        InputError: the checkpoint or the options are refused.
    """
    path = checkpoint.expanduser().absolute()
    inspect_checkpoint(path)
    recipe = _recipe(precision, profile, overrides, builder)
    base = (folder or Path(DEFAULT_OUTPUT)).absolute()
    config = olive_config(path, recipe, output=base / "model", cache=base / "cache")
    text = json.dumps(config, indent=2)
    if folder is None:
        return text
    write_text_atomically(base / "config.json", text + "\n")
    package = json.dumps(package_config(), indent=2)
    write_text_atomically(base / "package-config.json", package + "\n")
    return (
        f"olive run --config {base / 'config.json'} --package-config {base / 'package-config.json'}"
    )


def _recipe(
    precision: Precision, profile: Profile, overrides: Mapping[str, Any], builder: BuilderWay
) -> Recipe:
    if precision is Precision.FP32:
        return REFERENCE.model_copy(update={"builder": builder})
    return plan_recipes([precision], profile=profile, overrides=overrides, builder=builder)[0]
