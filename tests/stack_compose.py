"""Reading compose.yaml as Docker Compose does, as far as the tests need it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).resolve().parents[1] / "deployments" / "compose" / "compose.yaml"

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def read_compose(path: Path = COMPOSE) -> dict[str, Any]:
    """Give the file with its anchors merged, variables as they stand."""
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def filled_in(node: Any, variables: Mapping[str, str]) -> Any:
    """Put variables, or their defaults, in their places.

    Raises:
        KeyError: one without a default is not given, as where .env lacks it.
    """
    if isinstance(node, dict):
        return {key: filled_in(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [filled_in(value, variables) for value in node]
    if not isinstance(node, str):
        return node

    def value_of(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind != "-":
            raise KeyError(f"{name}: {rest}")
        return rest

    return _VARIABLE.sub(value_of, node)


def variables_of(node: Any) -> set[str]:
    """Give the names of all variables."""
    return {found[0] for found in _VARIABLE.findall(str(node))}
