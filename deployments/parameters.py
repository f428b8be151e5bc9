"""Holding a deployment's parameters against the flow that will get them.

Prefect compares them with a JSON schema, which knows types but no rule that is written in Python,
and only where the server can be asked.
"""

from __future__ import annotations

from typing import Any, get_type_hints

from prefect.flows import Flow
from pydantic import TypeAdapter, ValidationError

from tasks.core.errors import InputError


def require_parameters(flow: Flow[..., Any], parameters: dict[str, Any], where: str) -> None:
    """Refuse a parameter that the flow does not have, or whose value it would refuse.

    One that is missing is asked for in the UI's form.

    Raises:
        InputError: says which parameter, and what is wrong with it.
    """
    hints = get_type_hints(flow.fn)
    for name, value in parameters.items():
        if name not in flow.parameters.properties:
            known = ", ".join(flow.parameters.properties)
            raise InputError(f"{where}: flow {flow.name} has no parameter {name!r}", expected=known)
        try:
            TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as problem:
            raise _refused(where, name, problem) from problem


def require_complete(flow: Flow[..., Any], parameters: dict[str, Any], where: str) -> None:
    """Refuse parameters with which nobody fills in a form: all must be there, and right.

    Raises:
        InputError: says which parameter, and what is wrong with it.
    """
    require_parameters(flow, parameters, where)
    missing = [name for name in flow.parameters.required if name not in parameters]
    if missing:
        raise InputError(
            f"{where}: the flow needs the parameter {', '.join(missing)}",
            next_step="give it under parameters; a schedule or trigger has no form",
        )


def _refused(where: str, name: str, problem: ValidationError) -> InputError:
    first = problem.errors(include_url=False)[0]
    place = ".".join(str(part) for part in (name, *first["loc"]))
    return InputError(
        f"{where}: parameters: {place}: {first['msg']}", got=repr(first.get("input"))[:200]
    )
