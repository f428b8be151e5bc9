"""The Prefect face of Foundry Local: examined in a staging index, registered in production."""

from __future__ import annotations

from typing import Any

from prefect import task

from tasks.core.budget import BASE_BYTES, loaded_bytes, stage_bytes
from tasks.core.checkpoint_files import require_unchanged
from tasks.core.progress import step
from tasks.core.questions import load_question_file
from tasks.core.records import (
    Checkpoint,
    Environment,
    Evidence,
    Question,
    QuestionFile,
    Registration,
    Variant,
)
from tasks.core.reservations import reserve_memory
from tasks.core.settings import Settings
from tasks.core.task import RETRYING, UNCACHED, Inputs, cached
from tasks.foundry import ledger, register, stage


def _of_staging(inputs: Inputs) -> list[Any]:
    environment: Environment = inputs["environment"]
    subjects = [inputs["checkpoint"].digest, inputs["variant"].digest, inputs["questions"].digest]
    versions = [environment.machine_class, environment.foundry_version, stage.REVISION]
    return [*subjects, *versions, inputs["load_cycles"]]


@task(
    name="stage in Foundry Local",
    task_run_name="stage {variant.recipe.precision}",
    **cached(_of_staging),
)
def stage_variant(
    checkpoint: Checkpoint,
    variant: Variant,
    questions: QuestionFile,
    *,
    load_cycles: int,
    environment: Environment,  # noqa: ARG001  (part of the cache key)
) -> Evidence:
    """Load a variant in a throw-away Foundry Local index, ask it, and compare."""
    need = stage_bytes(checkpoint, variant.precision, variant.size_bytes)
    label = f"stage {variant.precision} of {checkpoint.name}"
    with step(f"stage {variant.precision}") as say, reserve_memory(need, step=label, say=say):
        evidence = stage.examine_in_staging(
            checkpoint,
            variant,
            load_question_file(questions),
            load_cycles=load_cycles,
            settings=Settings(),
            say=say,
        )
        require_unchanged(checkpoint)
        say(_in_words(evidence))
    return evidence


@task(
    name="register champion",
    task_run_name="register {variant.recipe.precision}",
    **RETRYING,
    **UNCACHED,
)
def register_champion(name: str, variant: Variant, question: Question, run_id: str) -> Registration:
    """Register the champion, have it answer, and enter it in the ledger. Never cached."""
    settings = Settings()
    # Its answers are held against ONNX Runtime GenAI's, in the same child.
    need = 2 * loaded_bytes(variant.precision, variant.size_bytes) + BASE_BYTES
    with step("register champion") as say, reserve_memory(need, step=f"register {name}", say=say):
        registration = register.register_champion(
            name, variant, question, settings=settings, say=say
        )
        ledger.record_champion(settings, name, registration, variant, run_id=run_id)
        say(f"{registration.model_id} answers")
    return registration


def _in_words(evidence: Evidence) -> str:
    failed = evidence.metrics.get("foundry.edge_failures")
    if failed and failed.value:
        return f"{failed.value:.0f} edge cases failed"
    unequal = [
        name
        for name, found in evidence.metrics.items()
        if name.endswith("_mismatches") and found.value != 0
    ]
    return f"unlike ONNX Runtime GenAI: {', '.join(unequal)}" if unequal else "answers are equal"
