"""The versions that decide a variant's bytes, as one string.

Reads package metadata only; no tool is imported.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata

from tasks.core.errors import ToolMissing

# Counts up when our own pass gives other bytes for the same recipe.
BUILD_REVISION = 2
_TOOLS = ("olive-ai", "onnxruntime-genai", "onnxruntime", "onnx", "transformers", "torch")


@lru_cache(maxsize=1)
def toolchain() -> str:
    """Name the versions that decide a variant's bytes.

    Olive's cache key has no tool version in it, so the string goes into the pass's configuration.

    Raises:
        ToolMissing: one of the tools is not installed.
    """
    try:
        versions = [f"{name}=={metadata.version(name)}" for name in _TOOLS]
    except metadata.PackageNotFoundError as problem:
        raise ToolMissing(
            f"{problem.name} is not installed", next_step="install Ingot's dependencies"
        ) from problem
    return " ".join([*versions, f"ingot-build=={BUILD_REVISION}"])
