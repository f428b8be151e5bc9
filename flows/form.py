"""Fields as Prefect's form shows them best, and what people type into them.

The form is made from the JSON schema alone. `X | None` becomes a switch whose off position reads
`Property is type "None"`; a field that may be left empty reads better, and so does a drop-down
with nothing chosen (both looked at, 3.8.8, V1 and V2). Knows no flow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic.config import JsonDict

from tasks.core.errors import InputError


def _stripped(typed: object) -> object:
    """Take off what a paste brings along."""
    return typed.strip() if isinstance(typed, str) else typed


def _given(typed: object) -> object:
    """Mean nothing by an empty field."""
    return _stripped(typed) or None


class Form(BaseModel):
    """Base of what a flow is asked for: unknown fields refused, empty ones not written down.

    A `null` written down would not meet the form's own schema when the run is copied.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_serializer(mode="wrap")
    def _without_empty(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}


def _path(typed: object) -> object:
    """Say what is wanted, before pydantic says which Python class is."""
    given = _stripped(typed)
    if not given or not isinstance(given, str | Path):
        raise ValueError(f"a path is wanted, such as /models/my-model, not {typed!r}")
    return given


def _optional_path(typed: object) -> object:
    given = _given(typed)
    return given if given is None else _path(given)


OptionalText = Annotated[
    str | None, BeforeValidator(_given), WithJsonSchema({"type": "string"}, mode="validation")
]
FormPath = Annotated[
    Path,
    BeforeValidator(_path),
    WithJsonSchema({"type": "string", "minLength": 1}, mode="validation"),
]
OptionalPath = Annotated[
    Path | None,
    BeforeValidator(_optional_path),
    WithJsonSchema({"type": "string"}, mode="validation"),
]


def choices(*values: object) -> WithJsonSchema:
    """Show an optional choice as a drop-down in which nothing is chosen."""
    return WithJsonSchema({"enum": list(values)}, mode="validation")


def _without_default(schema: JsonDict) -> None:
    schema.pop("default", None)


def optional(title: str, description: str) -> Any:
    """Declare a field that may be left empty; the schema then has no `null` to switch to."""
    return Field(
        default=None,
        title=title,
        description=description,
        json_schema_extra=_without_default,
    )


def placed(path: Path, what: str) -> Path:
    """Give a path of a request as one that means the same in every process.

    Args:
        path: as typed; `~` is the home of the user that the flow runs as.
        what: names the path in the error, such as `the checkpoint folder`.

    Raises:
        InputError: it is relative: to which folder, only the process that runs the flow knows.
    """
    try:
        absolute = path.expanduser()
    except RuntimeError as problem:  # ~somebody that this machine does not know
        raise InputError(f"{what} {str(path)!r} cannot be found: {problem}") from problem
    if not absolute.is_absolute():
        raise InputError(
            f"{what} {str(path)!r} is a relative path",
            expected="an absolute path on the machine that runs the flow, such as /models/my-model",
            next_step="write the whole path; ~ is the home of the user that the worker runs as",
        )
    return absolute
