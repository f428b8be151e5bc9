"""The rollback flow: go back to the champion before, from the UI as from the command.

Reads as the order of the steps; how one goes back is in `tasks/foundry/roll_back.py`.
"""

from __future__ import annotations

import logging
from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field, StringConstraints

from flows.artifacts import decoration
from flows.attempts import gave_up
from flows.form import Form, OptionalText, optional
from flows.inventory import go_back, history, may_go_back
from flows.rollback_event import EVENT, payload_of, resource_of
from tasks.core.progress import step
from tasks.foundry.ledger import Champion
from tasks.report.markup import escaped, section, table

RequiredText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

# Prefect sends a module's log lines to the run's page only at a level of its own (3.8.8).
for package in ("flows", "tasks"):
    logging.getLogger(package).setLevel(logging.INFO)


class RollbackRequest(Form):
    """One way back."""

    name: RequiredText = Field(
        title="Name",
        description="Name in Foundry Local. `ingot list` has them, as has the artifact "
        "ingot-verdict of each release.",
    )
    to: OptionalText = optional(
        "Model id that must come back",
        "Such as my-model-int4-cpu:1; refused if the champion before is another one. Empty: "
        "whichever was champion before.",
    )


def name_of_run() -> str:
    """Name a run after what goes back, not after Prefect's animals."""
    request = RollbackRequest.model_validate(flow_run.get_parameters()["request"])
    return f"rollback-{request.name}"


@flow(name="rollback", flow_run_name=name_of_run, persist_result=False)
def rollback(request: RollbackRequest) -> State[Champion]:
    """Make the champion before the present one champion again, loaded and asked first.

    Args:
        request: which name goes back.
    """
    # Started again, it could go back twice: nobody knows how far the first start came.
    if spent := gave_up(most=1):
        return spent
    with step("check request") as say:
        present, target = may_go_back(request.name, request.to)
        say(f"{present.model_id} goes, {target.model_id} comes back")
    with step("roll back") as say:
        champion = go_back(request.name)
        say(f"{champion.model_id} answers")
    tell(request.name, champion, instead_of=present)
    show_champions(request.name)
    return Completed(
        name="RolledBack",
        message=f"{champion.model_id} is champion of {request.name} again, "
        f"instead of {present.model_id}",
        data=champion,
    )


@decoration
def tell(name: str, champion: Champion, *, instead_of: Champion) -> None:
    """Emit the event that applications may listen to."""
    payload = payload_of(name, champion, instead_of=instead_of)
    emit_event(EVENT, resource=resource_of(name), payload=payload)


@decoration
def show_champions(name: str) -> None:
    """Publish who is champion, and who was."""
    rows = [
        {key: row[key] for key in ("champion", "since", "precision", "run")}
        for row in history(name)
    ]
    text = section(f"Champions of {escaped(name)}, newest first", table(rows))
    create_markdown_artifact(
        key="ingot-rollback", markdown=text, description=f"{name} went back one champion."
    )
