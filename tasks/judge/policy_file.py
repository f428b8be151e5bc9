"""A policy file as it is written: its tables, read strictly, and what is said when one is wrong.

Knows the shape of one file; what two files together mean is said in `policy.py`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    ValidationError,
)

from tasks.core.errors import PolicyRefused
from tasks.core.records import SHIPPABLE

Operator = Literal["<=", ">="]
SeverityName = Literal["block", "warn"]
ShippableName = Literal["int4", "int8", "fp16"]
GateName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


def _for_every_precision(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return dict.fromkeys((precision.value for precision in SHIPPABLE), value)
    return value


Limits = Annotated[dict[ShippableName, FiniteFloat], BeforeValidator(_for_every_precision)]


class _Table(BaseModel):
    # Strict, or `limit = true` would be read as 1.0 and `limit = "0.1"` as 0.1.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GateTable(_Table):
    """The table `[gates.<name>]`; what is absent is left as it was."""

    metric: str | None = None
    operator: Operator | None = None
    severity: SeverityName = "block"
    inconclusive: SeverityName | None = None
    enabled: bool = True
    limit: Limits = {}
    limit_below_4b: Limits = {}
    limit_below_1b: Limits = {}
    champion_factor: Limits = {}
    champion_margin: Limits = {}
    champion_limit: Limits = {}
    never_tighter_than: Limits = {}
    why: str = ""


class SelectionTable(_Table):
    """The table `[selection]`."""

    order: list[ShippableName] = []


class PolicyFile(_Table):
    """A user's file."""

    selection: SelectionTable = SelectionTable()
    gates: dict[GateName, GateTable] = {}


class DefaultFile(PolicyFile):
    """The file that Ingot ships, which alone says what can be gated."""

    metrics: dict[str, str] = Field(min_length=1)


File = TypeVar("File", bound=PolicyFile)


def text_of(path: Path) -> str:
    """Read a policy file.

    Raises:
        PolicyRefused: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise PolicyRefused(
            f"policy {path} cannot be read: {problem.strerror}",
            next_step="give the path of a TOML file, or none for the default policy",
        ) from problem
    except UnicodeDecodeError as problem:
        raise PolicyRefused(
            f"policy {path} is not TOML: {problem}", next_step="save it as UTF-8"
        ) from problem


def read_file(path: Path, kind: type[File]) -> File:
    """Read a policy file into its tables.

    Raises:
        PolicyRefused: it cannot be read, is not TOML, or has an unknown key or a wrong value.
    """
    try:
        content = tomllib.loads(text_of(path))
    except tomllib.TOMLDecodeError as problem:
        raise PolicyRefused(
            f"policy {path} is not TOML: {problem}", next_step="mend that line of the file"
        ) from problem
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        raise _refused(path, kind, problem) from problem


# ---------------------------------------------------------------- refusing


def _refused(path: Path, kind: type[PolicyFile], problem: ValidationError) -> PolicyRefused:
    first = problem.errors(include_url=False)[0]
    where = [str(part) for part in first["loc"] if part != "[key]"]
    more = problem.error_count() - 1
    allowed = _allowed(kind, where, first["type"])
    return PolicyRefused(
        f"policy {path}: {'.'.join(where)}: {_in_words(first['type'], first['msg'])}"
        + (f" (and {more} more)" if more else ""),
        expected=f"one of {', '.join(allowed)}" if allowed else "",
        got=repr(first["input"]) if first["type"] != "extra_forbidden" else "",
        next_step=nearest(where[-1] if first["loc"][-1] == "[key]" else _asked(first), allowed),
    )


def _asked(error: Any) -> str:
    """Give the word that the user wrote where another was expected."""
    return str(error["loc"][-1] if error["type"] == "extra_forbidden" else error["input"])


def _allowed(kind: type[PolicyFile], where: Sequence[str], problem: str) -> list[str]:
    if problem == "extra_forbidden":
        tables: dict[str, type[BaseModel]] = {"gates": GateTable, "selection": SelectionTable}
        return list((tables[where[0]] if len(where) > 1 else kind).model_fields)
    if problem != "literal_error":
        return []
    choices = {"operator": Operator, "severity": SeverityName, "inconclusive": SeverityName}
    return list(get_args(choices.get(where[-1], ShippableName)))


def _in_words(kind: str, message: str) -> str:
    words = {
        "extra_forbidden": "unknown key",
        "literal_error": "unknown value",
        "finite_number": "a limit that nothing can pass, or nothing can fail, is not a limit",
        "dict_type": "a table is needed here; for a limit one number, or a table of precisions",
        "string_pattern_mismatch": "a gate's name is lower case letters, digits and underscores",
    }
    return words.get(kind, message[:1].lower() + message[1:])


def nearest(asked: str, allowed: Sequence[str]) -> str:
    """Say what was probably meant."""
    near = difflib.get_close_matches(asked, allowed, n=1)
    return f"write {near[0]}, if that is what you mean" if near else "mend the file, then run again"
