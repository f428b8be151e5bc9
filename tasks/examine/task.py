"""The Prefect face of the examination: what is measured is cached, what is timed runs alone."""

from __future__ import annotations

from typing import Any

from prefect import task

from tasks.core.budget import examine_reference_bytes, examine_variant_bytes, machine_memory
from tasks.core.figures import figure
from tasks.core.progress import step
from tasks.core.questions import load_question_file
from tasks.core.records import Checkpoint, Environment, Evidence, QuestionFile, Variant
from tasks.core.settings import Settings
from tasks.core.task import Inputs, cached
from tasks.examine import reference as references
from tasks.examine import speed as speeds
from tasks.examine import variant as variants
from tasks.examine.protocol import Protocol
from tasks.examine.speed import SpeedEvidence


def _common(inputs: Inputs) -> list[Any]:
    environment: Environment = inputs["environment"]
    return [environment.machine_class, inputs["protocol"]]


def _of_reference(inputs: Inputs) -> list[Any]:
    subjects = [inputs["checkpoint"].digest, inputs["reference"].digest]
    return [*subjects, inputs["questions"].digest, *_common(inputs)]


def _of_variant(inputs: Inputs) -> list[Any]:
    return [inputs["variant"].digest, *_of_reference(inputs)]


def _of_speed(inputs: Inputs) -> list[Any]:
    return [[variant.digest for variant in inputs["built"]], *_common(inputs)]


@task(name="examine reference", task_run_name="examine reference", **cached(_of_reference))
def examine_reference(
    checkpoint: Checkpoint,
    reference: Variant,
    questions: QuestionFile,
    *,
    protocol: Protocol,
    environment: Environment,  # noqa: ARG001  (part of the cache key)
) -> Evidence:
    """Prove the FP32 reference equal to Hugging Face, and collect its answers."""
    need = examine_reference_bytes(checkpoint, reference.size_bytes)
    with step("examine reference") as say, machine_memory().reserve(need):
        evidence = references.examine_reference(
            checkpoint,
            reference,
            load_question_file(questions),
            protocol=protocol,
            settings=Settings(),
            say=say,
        )
        say(_in_words(evidence, "reference.kld_mean", "reference.right"))
    return evidence


@task(
    name="examine variant",
    task_run_name="examine {variant.recipe.precision}",
    **cached(_of_variant),
)
def examine_variant(
    checkpoint: Checkpoint,
    reference: Variant,
    yardstick: Evidence,
    variant: Variant,
    questions: QuestionFile,
    *,
    protocol: Protocol,
    environment: Environment,  # noqa: ARG001  (part of the cache key)
) -> Evidence:
    """Measure what quantisation cost: template, decoding, distribution, answers, size."""
    need = examine_variant_bytes(
        checkpoint, reference.size_bytes, variant.precision, variant.size_bytes
    )
    with step(f"examine {variant.precision}") as say, machine_memory().reserve(need):
        evidence = variants.examine_variant(
            checkpoint,
            reference,
            yardstick,
            variant,
            load_question_file(questions),
            protocol=protocol,
            settings=Settings(),
            say=say,
        )
        say(_in_words(evidence, "fidelity.kld_mean", "answers.right", "answers.flip_rate"))
    return evidence


@task(name="measure speed", task_run_name="measure speed", **cached(_of_speed))
def measure_speed(
    built: list[Variant],
    *,
    protocol: Protocol,
    environment: Environment,  # noqa: ARG001  (part of the cache key)
) -> SpeedEvidence:
    """Time all variants in turn, interleaved, with one of them twice as a control."""
    with step("measure speed") as say:
        speed = speeds.measure_speed(built, protocol=protocol, settings=Settings(), say=say)
        rates = (part.metrics.get("speed.decode_tokens_per_s") for part in speed.evidence)
        say(f"decode {', '.join(figure(m.value) for m in rates if m)} tokens/s")
    return speed


def _in_words(evidence: Evidence, *names: str) -> str:
    found = ((name, evidence.metrics.get(name)) for name in names)
    return ", ".join(f"{name} {figure(m.value)}" for name, m in found if m)
