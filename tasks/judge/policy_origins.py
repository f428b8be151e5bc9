"""Where each value of a policy comes from: which file, which line.

Knows lines of TOML; what the values mean is said in `policy.py`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.core.records import Record
from tasks.judge.policy import DEFAULT_POLICY
from tasks.judge.policy_file import text_of


class Origin(Record):
    """Where a value was written.

    Attributes:
        yours: in the user's file, not in the default one.
        line: from 1, or None where no file says it and a gate simply has it.
    """

    yours: bool
    line: int | None


class Origins:
    """The lines of the default policy and of the user's file over it."""

    def __init__(self, default: str, user: str = "") -> None:
        self._files = ((True, lines_of(user)), (False, lines_of(default)))

    def of(self, *path: str) -> Origin:
        """Give the origin of a value, such as `of("gates", "kld_mean", "limit", "int4")`.

        One number for all precisions counts for each of them.
        """
        for yours, lines in self._files:
            line = lines.get(path, lines.get(path[:-1]))
            if line is not None:
                return Origin(yours=yours, line=line)
        return Origin(yours=False, line=None)


def read_origins(path: Path | None) -> Origins:
    """Read the default policy and, where a path is given, the user's file.

    Raises:
        PolicyRefused: one cannot be read.
    """
    return Origins(text_of(DEFAULT_POLICY), text_of(path) if path else "")


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """Give the line on which each value of a TOML text begins to be set, by its path.

    The parser of the standard library knows no lines, but it does know whether a piece of text is
    a whole statement: lines are taken until it is, so that nothing inside a string or a list is
    taken for a key.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        first = first if statement else number
        statement += f"{line}\n"
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = _header(content)
        else:
            found |= {(*table, *path): first for path in _values(content)}
        statement = ""
    return found


def _header(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the path of the one table that a header names."""
    path: list[str] = []
    while content:
        ((key, inner),) = content.items()
        path.append(key)
        content = inner if isinstance(inner, dict) else {}
    return tuple(path)


def _values(content: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from ((key, *path) for path in _values(value))
        else:
            yield (key,)
