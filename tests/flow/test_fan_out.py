"""What becomes of the others when one of several tasks ends in an error that is none of Ingot's."""

from __future__ import annotations

import pytest
from prefect import flow, task

from flows.fan_out import Settled, settle
from tasks.core.errors import (
    CheckpointRefused,
    DoesNotFit,
    IngotError,
    ToolFailed,
    TransientFault,
    VariantUnusable,
)

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server")]

OF_THE_PARSER = "AST constructor recursion depth mismatch (before=18, after=12)"


@task
def end_in(problem: Exception | None) -> str:
    if problem is not None:
        raise problem
    return "made"


@flow(persist_result=False)
def side_by_side(problem: Exception) -> Settled[str]:
    futures = {"int4": end_in.submit(problem), "int8": end_in.submit(None)}
    return settle(futures, "build")


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (SystemError(OF_THE_PARSER), TransientFault),
        (ValueError("not of ours"), ToolFailed),
        (MemoryError(), DoesNotFit),
        (VariantUnusable("does not load"), VariantUnusable),
    ],
)
def test_any_error_fails_its_own_subject_only(problem: Exception, kind: type[IngotError]) -> None:
    settled = side_by_side(problem)
    assert settled.results == {"int8": "made"}
    assert {subject: type(each) for subject, each in settled.failures.items()} == {"int4": kind}
    assert str(problem) in str(settled.failures["int4"])


def test_changed_checkpoint_ends_them_all() -> None:
    with pytest.raises(CheckpointRefused, match="changed"):
        side_by_side(CheckpointRefused("changed"))
