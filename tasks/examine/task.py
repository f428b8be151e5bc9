"""The Prefect face of the examination: what is measured is cached, what is timed runs alone."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from prefect import task

from tasks.core.budget import (
    BASE_BYTES,
    examine_reference_bytes,
    examine_variant_bytes,
    loaded_bytes,
)
from tasks.core.checkpoint_files import require_unchanged
from tasks.core.figures import figure
from tasks.core.progress import step
from tasks.core.questions import load_question_file
from tasks.core.records import Checkpoint, Environment, Evidence, QuestionFile, Variant
from tasks.core.reservations import reserve_machine, reserve_memory
from tasks.core.settings import Settings
from tasks.core.task import Inputs, cached
from tasks.examine import reference as references
from tasks.examine import variant as variants
from tasks.examine.edge import edge as edges
from tasks.examine.protocol import Protocol
from tasks.examine.speed import measure as speeds
from tasks.examine.speed import tune as tuning
from tasks.examine.speed.measure import SpeedEvidence
from tasks.examine.speed.tune import Tuned


def _common(inputs: Inputs) -> list[Any]:
    environment: Environment = inputs["environment"]
    return [environment.machine_class, inputs["protocol"]]


def _of_reference(inputs: Inputs) -> list[Any]:
    subjects = [inputs["checkpoint"].digest, inputs["reference"].digest]
    return [*subjects, inputs["questions"].digest, *_common(inputs)]


def _of_variant(inputs: Inputs) -> list[Any]:
    return [inputs["variant"].digest, *_of_reference(inputs)]


def _of_edges(inputs: Inputs) -> list[Any]:
    protocol: Protocol = inputs["protocol"]
    subjects = [inputs["checkpoint"].digest, inputs["variant"].digest]
    return [*subjects, inputs["environment"].machine_class, protocol.revision, protocol.seed]


def _of_clock(inputs: Inputs) -> list[Any]:
    """What is timed depends on the plan, not on how many questions are asked."""
    champion: Variant | None = inputs.get("champion")
    protocol: Protocol = inputs["protocol"]
    plan = [protocol.revision, protocol.timing, protocol.bootstrap_samples, protocol.seed]
    digests = [variant.digest for variant in inputs["built"]]
    beside = champion.digest if champion else None
    return [digests, beside, inputs["environment"].machine_class, *plan]


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
    label = f"examine reference of {checkpoint.name}"
    with step("examine reference") as say, reserve_memory(need, step=label, say=say):
        evidence = references.examine_reference(
            checkpoint,
            reference,
            load_question_file(questions),
            protocol=protocol,
            settings=Settings(),
            say=say,
        )
        require_unchanged(checkpoint)
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
    label = f"examine {variant.precision} of {checkpoint.name}"
    with (
        step(f"examine {variant.precision}") as say,
        reserve_memory(need, step=label, say=say),
    ):
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
        require_unchanged(checkpoint)
        say(_in_words(evidence, "fidelity.kld_mean", "answers.right", "answers.flip_rate"))
    return evidence


@task(
    name="examine edge cases",
    task_run_name="edge cases {variant.recipe.precision}",
    **cached(_of_edges),
)
def examine_edges(
    checkpoint: Checkpoint,
    variant: Variant,
    *,
    protocol: Protocol,
    environment: Environment,  # noqa: ARG001  (part of the cache key)
) -> Evidence:
    """Give a variant every odd input, and see that it refuses or survives it."""
    # Damaged copies are loaded beside it, in a process of their own.
    need = 2 * (loaded_bytes(variant.precision, variant.size_bytes) + BASE_BYTES)
    label = f"edge cases {variant.precision} of {checkpoint.name}"
    with (
        step(f"edge cases {variant.precision}") as say,
        reserve_memory(need, step=label, say=say),
    ):
        evidence = edges.examine_edges(
            checkpoint, variant, settings=Settings(), protocol=protocol, say=say
        )
        say(_in_words(evidence, "edge.failures", "edge.cases"))
    return evidence


@task(name="tune variants", task_run_name="tune variants", **cached(_of_clock))
def tune_variants(
    built: list[Variant],
    *,
    protocol: Protocol,
    environment: Environment,  # noqa: ARG001  (part of the cache key)
) -> Tuned:
    """Give each variant the threads and the spinning that it is fastest with on this machine."""
    is_swept = protocol.timing.tune_budget_s > 0
    with step("tune variants") as say:
        with reserve_machine(step="tune variants", say=say) if is_swept else nullcontext():
            tuned = tuning.tune_variants(built, protocol=protocol, settings=Settings(), say=say)
        changed = {v.digest for v in tuned.variants} - {v.digest for v in built}
        swept = f"{len(changed)} of {len(built)} faster with other threads than as built"
        say(swept if is_swept else f"no sweep in the profile {protocol.profile}")
    return tuned


@task(name="measure speed", task_run_name="measure speed", **cached(_of_clock))
def measure_speed(
    built: list[Variant],
    champion: Variant | None,
    *,
    protocol: Protocol,
    environment: Environment,  # noqa: ARG001  (part of the cache key)
) -> SpeedEvidence:
    """Time all variants in turn, interleaved, with one of them twice as a control."""
    with step("measure speed") as say, reserve_machine(step="measure speed", say=say):
        speed = speeds.measure_speed(
            built, champion=champion, protocol=protocol, settings=Settings(), say=say
        )
        rates = (part.metrics.get("speed.decode_tokens_per_s") for part in speed.evidence)
        say(f"decode {', '.join(figure(m.value) for m in rates if m)} tokens/s")
    return speed


def _in_words(evidence: Evidence, *names: str) -> str:
    found = ((name, evidence.metrics.get(name)) for name in names)
    return ", ".join(f"{name} {figure(m.value)}" for name, m in found if m)
