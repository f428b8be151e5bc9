"""Olive without the work that a build has no use for: its evaluator's imports, its hash of files.

Olive stays the runner. Knows two of its inner parts (0.13.0); what is run belongs to
`build_child.py`. Runs in a child only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.core.imports import collector_off
from tasks.core.records import Checkpoint

METRICS = "torchmetrics"


class _Anything(type):
    """Makes every attribute of a class the class itself, so that it passes for any name."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _NeverUsed(metaclass=_Anything):
    """Stands in for what is named when a module is imported."""

    def __init__(self, *_: object, **__: object) -> None:
        raise RuntimeError(f"{METRICS} was left out: a build evaluates nothing")


def import_olive() -> Callable[..., Any]:
    """Import Olive and give the function that runs a workflow.

    Without torchmetrics, which brings SciPy's signals and matplotlib, 1.7 of 6 s: Olive's evaluator
    names its classes when it is imported, and a workflow without an evaluator uses none of them.
    """
    with collector_off(at_start="olive" not in sys.modules), _left_out(METRICS):
        from olive.workflows import run
    found: Callable[..., Any] = run
    return found


@contextmanager
def _left_out(package: str) -> Iterator[None]:
    if package in sys.modules:
        yield
        return
    stand_in = ModuleType(package)
    stand_in.__getattr__ = lambda name: getattr(_NeverUsed, name)  # type: ignore[method-assign]
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        del sys.modules[package]


@contextmanager
def known_to_olive(checkpoint: Checkpoint) -> Iterator[None]:
    """Tell Olive what a checkpoint's bytes are, which it would read once more to hash.

    Only for the key of its cache. Admission has hashed them, and the build does so again at its
    end.
    """
    from olive.model.config import ModelConfig

    identifier_of = ModelConfig.get_model_identifier

    def known(config: Any) -> str:
        if Path(config.config.get("model_path") or "") == checkpoint.path:
            return checkpoint.digest
        found: str = identifier_of(config)
        return found

    ModelConfig.get_model_identifier = known
    try:
        yield
    finally:
        ModelConfig.get_model_identifier = identifier_of
