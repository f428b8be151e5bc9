"""Trying out a deployment's trigger on an event such as the watcher emits, without a server.

Prefect makes no run and says nothing in the UI where a trigger's labels match no event or its
template cannot be rendered (measured, 3.8.8). It is tried with Prefect's own matching and
rendering; whether a server does the same is held in tests/flow.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from prefect.flows import Flow
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent, Resource
from prefect.utilities.schema_tools.hydration import HydrationContext, HydrationError, hydrate
from pydantic import ValidationError

from deployments.parameters import require_complete
from tasks.core.errors import InputError

# Resource ids and payloads of the events that Ingot's triggers listen to.
SAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "checkpoint.landed": (
        "checkpoint.0123456789abcdef",
        {"path": '/data/a "quoted" name/step-100', "digest": "0" * 64, "name": "demo"},
    ),
}


def require_trigger(flow: Flow[..., Any], trigger: dict[str, Any], where: str) -> None:
    """Refuse a trigger that its event does not fire, or whose parameters the flow would refuse.

    Raises:
        InputError: says which part of the trigger is wrong.
    """
    where = f"{where}: trigger {trigger.get('name')!r}"
    parameters = trigger.get("parameters") or {}
    rest = {key: value for key, value in trigger.items() if key in EventTrigger.model_fields}
    try:
        parsed = EventTrigger.model_validate(rest)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        raise InputError(
            f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}", got=str(rest)[:200]
        ) from problem
    for name in sorted(parsed.expect):
        event = sample_event(name, where)
        if not parsed.covers(event):
            raise InputError(
                f"{where}: its match does not cover the event {name}",
                expected=f"labels of the resource {event.resource.id}",
                got=str(rest.get("match")),
            )
        require_complete(flow, rendered(parameters, event, where), where)


def sample_event(name: str, where: str = "trigger") -> ReceivedEvent:
    """Give an event as its emitter makes it.

    Raises:
        InputError: nothing of Ingot emits an event of that name.
    """
    if name not in SAMPLES:
        raise InputError(
            f"{where}: nothing emits the event {name!r}", expected=" or ".join(sorted(SAMPLES))
        )
    resource, payload = SAMPLES[name]
    return ReceivedEvent(
        id=uuid4(),
        occurred=datetime.now(UTC),
        event=name,
        resource=Resource({"prefect.resource.id": resource}),
        payload=payload,
    )


def rendered(parameters: dict[str, Any], event: ReceivedEvent, where: str) -> dict[str, Any]:
    """Give a trigger's parameters as the server fills them in for an event.

    Raises:
        InputError: a template cannot be rendered.
    """
    context = HydrationContext(
        raise_on_error=True, render_jinja=True, jinja_context={"event": event}
    )
    try:
        return hydrate(parameters, context)
    except HydrationError as problem:
        raise InputError(
            f"{where}: its parameters cannot be filled in: {type(problem).__name__} {problem}",
            got=str(parameters)[:300],
        ) from problem
