"""The order of a release, and what happens when one of its steps goes wrong.

The steps are hand-written fakes; each is held against the real thing in tests/real.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.parameters import ReleaseRequest
from flows.release import release
from tasks.checkpoint import admit
from tasks.core.errors import (
    CheckpointRefused,
    ChildKilled,
    DoesNotFit,
    ToolFailed,
    VariantUnusable,
)
from tasks.core.records import (
    Checkpoint,
    Environment,
    Evidence,
    Measurement,
    Precision,
    Quantisation,
    Question,
    Recipe,
    Registration,
    Release,
    Variant,
)
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.environment import check
from tasks.examine import reference as references
from tasks.examine import speed as speeds
from tasks.examine import variant as examinations
from tasks.examine.speed import SpeedEvidence
from tasks.examine.task import examine_reference, examine_variant, measure_speed
from tasks.foundry import register, stage
from tasks.foundry.task import stage_variant
from tasks.judge.policy import load_policy
from tasks.variants import build
from tasks.variants.task import build_variant

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server", "ingot_home")]

CACHED = [build_variant, examine_reference, examine_variant, measure_speed, stage_variant]
SIZES = {Precision.INT4: 40, Precision.INT8: 60, Precision.FP16: 90, Precision.FP32: 200}


@dataclass
class Workshop:
    """Fakes of every step that needs a tool, with a fault to plant and a count of the calls."""

    faults: dict[str, list[Exception]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    bad: dict[Precision, str] = field(default_factory=dict)
    unmeasured: str | None = None

    def fail(self, step: str, *problems: Exception) -> None:
        self.faults[step] = list(problems)

    def _enter(self, step: str) -> None:
        self.calls[step] += 1
        if self.faults.get(step):
            raise self.faults[step].pop(0)

    def build(self, checkpoint: Checkpoint, recipe: Recipe, **_: Any) -> Variant:
        self._enter(f"build {recipe.precision}")
        store = Store(Settings().store)
        with store.staging() as folder:
            (folder / "model.onnx").write_text(f"{checkpoint.digest} {recipe.precision}")
            digest = store.publish(folder)
        return Variant(
            checkpoint_digest=checkpoint.digest,
            recipe=recipe,
            digest=digest,
            toolchain="fake",
            size_bytes=SIZES[recipe.precision],
            quantisation=Quantisation(bits={}, block_sizes={}, symmetric=True, embedding_bits=32),
            context_length=128,
            eos_token_ids=[1],
            build_seconds=1.0,
            build_cpu_s=1.0,
            build_peak_rss_bytes=1,
        )

    def reference(self, checkpoint: Checkpoint, reference: Variant, *_: Any, **__: Any) -> Evidence:
        self._enter("examine reference")
        return Evidence(suite="reference", subject=reference.digest, metrics={})

    def variant(self, *arguments: Any, **_: Any) -> Evidence:
        variant: Variant = arguments[3]
        self._enter(f"examine {variant.precision}")
        return Evidence(suite="variant", subject=variant.digest, metrics=self._metrics(variant))

    def speed(self, variants: list[Variant], **_: Any) -> SpeedEvidence:
        self._enter("measure speed")
        evidence = [Evidence(suite="speed", subject=v.digest, metrics={}) for v in variants]
        return SpeedEvidence(evidence=evidence)

    def stage(self, checkpoint: Checkpoint, variant: Variant, *_: Any, **__: Any) -> Evidence:
        self._enter(f"stage {variant.precision}")
        return Evidence(suite="foundry", subject=variant.digest, metrics={})

    def register(self, name: str, variant: Variant, question: Question, **_: Any) -> Registration:
        self._enter("register champion")
        return Registration(
            model_id=f"{name}-{variant.precision}-cpu:1",
            variant=variant.digest,
            path=Path("somewhere"),
            created=True,
            question=question.messages[-1].content,
            answer="{}",
            right=True,
        )

    def _metrics(self, variant: Variant) -> dict[str, Measurement]:
        """Measure everything well within the default limits, except what is planted."""
        found = {"decode.kld_mean": Measurement(value=0.0)}
        for gate in load_policy(None).gates:
            limit = gate.limit_for(variant.precision, 1)
            inside = limit - abs(limit) if gate.operator == "<=" else limit + abs(limit)
            found[gate.metric] = Measurement(value=inside)
        if broken := self.bad.get(variant.precision):
            gate = next(g for g in load_policy(None).gates if g.metric == broken)
            limit = gate.limit_for(variant.precision, 1)
            found[broken] = Measurement(value=limit + (9 if gate.operator == "<=" else -9))
        if self.unmeasured:
            found[self.unmeasured] = Measurement(value=None, method="planted")
        return found


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    shop = Workshop()
    monkeypatch.setattr(check, "check_environment", lambda *_, **__: healthy_environment())
    monkeypatch.setattr(build, "build_variant", shop.build)
    monkeypatch.setattr(references, "examine_reference", shop.reference)
    monkeypatch.setattr(examinations, "examine_variant", shop.variant)
    monkeypatch.setattr(speeds, "measure_speed", shop.speed)
    monkeypatch.setattr(stage, "examine_in_staging", shop.stage)
    monkeypatch.setattr(register, "register_champion", shop.register)
    for cached in CACHED:  # the storage was read from the settings when the task was defined
        monkeypatch.setattr(cached, "result_storage", Settings().records)
        monkeypatch.setattr(cached, "retry_delay_seconds", 0)
    return shop


def healthy_environment() -> Environment:
    return Environment(
        python="3.11",
        platform="test",
        cpu_model="test",
        cpu_features=["AVX2"],
        logical_cores=2,
        physical_cores=2,
        ram_total_bytes=64 * 1024**3,
        ram_available_bytes=64 * 1024**3,
        disk_free_bytes=640 * 1024**3,
        packages=[],
        foundry_version="2.2.1",
        foundry_detail="",
        machine_class=hashlib.sha256(b"test").hexdigest(),
        problems=[],
        warnings=[],
    )


@pytest.fixture
def run(demo_checkpoint: Path, demo_questions: Path) -> Callable[..., tuple[str, Any]]:
    """Run the flow on the demo checkpoint; gives the state's name and its result or error."""

    def go(**changes: Any) -> tuple[str, Any]:
        fields = {"checkpoint": demo_checkpoint, "questions": demo_questions, "name": "demo"}
        state = release(ReleaseRequest.model_validate({**fields, **changes}), return_state=True)
        return state.name, state.result(raise_on_failure=False)

    return go


def test_the_smallest_variant_that_passes_is_registered(workshop: Workshop, run: Any) -> None:
    name, outcome = run()
    assert name == "Completed"
    assert isinstance(outcome, Release)
    assert outcome.registration is not None
    assert outcome.registration.model_id == "demo-int4-cpu:1"
    assert outcome.report.is_file()
    assert (outcome.report.parent / "metrics.json").is_file()


def test_int8_ships_when_int4_fails_a_gate(workshop: Workshop, run: Any) -> None:
    workshop.bad = {Precision.INT4: "answers.flip_rate"}
    _, outcome = run()
    assert outcome.registration.model_id == "demo-int8-cpu:1"


def test_nothing_is_registered_when_no_variant_passes(workshop: Workshop, run: Any) -> None:
    workshop.bad = dict.fromkeys(SIZES, "template.text_mismatches")
    name, outcome = run()
    assert name == "Refused"
    assert outcome.registration is None
    assert workshop.calls["register champion"] == 0
    assert "template" in outcome.judgement.reason


def test_second_run_builds_and_examines_nothing(workshop: Workshop, run: Any) -> None:
    run()
    before = workshop.calls.copy()
    _, outcome = run()
    again = workshop.calls - before
    assert again == Counter({"register champion": 1})
    assert {"build fp32", "build int4", "examine int4", "measure speed"} <= set(outcome.cached)


def test_other_question_file_examines_again_and_builds_nothing(
    workshop: Workshop, run: Any, demo_questions: Path, tmp_path: Path
) -> None:
    run()
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(demo_questions.read_text().splitlines()[:10]) + "\n")
    before = workshop.calls.copy()
    run(questions=fewer)
    again = workshop.calls - before
    assert again["examine int4"] == 1
    assert not [step for step in again if step.startswith("build")]


def test_lost_files_of_one_variant_rebuild_that_one_only(workshop: Workshop, run: Any) -> None:
    _, outcome = run()
    int8 = next(v for v in outcome.variants if v.precision is Precision.INT8)
    Store(Settings().store).discard(int8.digest)
    before = workshop.calls.copy()
    run()
    again = workshop.calls - before
    assert [step for step in again if step.startswith("build")] == ["build int8"]


def test_failing_precision_does_not_stop_the_others(workshop: Workshop, run: Any) -> None:
    workshop.fail("build int8", VariantUnusable("does not load"))
    name, outcome = run()
    assert name == "Partial"
    assert outcome.failures == {"int8": "does not load."}
    assert outcome.registration.model_id == "demo-int4-cpu:1"
    assert workshop.calls["build int8"] == 1


def test_killed_child_is_tried_again(workshop: Workshop, run: Any) -> None:
    workshop.fail("build int4", ChildKilled("killed"))
    name, _ = run()
    assert name == "Completed"
    assert workshop.calls["build int4"] == 2


def test_gate_is_never_asked_twice(workshop: Workshop, run: Any) -> None:
    workshop.bad = dict.fromkeys(SIZES, "answers.flip_rate")
    run()
    assert workshop.calls["examine int4"] == 1


def test_machine_that_cannot_examine_is_not_a_refusal(workshop: Workshop, run: Any) -> None:
    for precision in ("int4", "int8", "fp16"):
        workshop.fail(f"examine {precision}", DoesNotFit("too large"))
    name, outcome = run()
    assert name == "Unfinished"
    assert outcome.registration is None
    assert outcome.environment_faults == ["fp16", "int4", "int8"]
    assert outcome.report.is_file()


def test_full_disk_fails_the_variant_and_not_the_flow(workshop: Workshop, run: Any) -> None:
    workshop.fail("build int8", OSError(errno.ENOSPC, "No space left on device"))
    name, outcome = run()
    assert name == "Partial"
    assert "No space left" in outcome.failures["int8"]
    assert outcome.registration.model_id == "demo-int4-cpu:1"


def test_busy_file_is_tried_again(workshop: Workshop, run: Any) -> None:
    workshop.fail("build int8", OSError(errno.EBUSY, "Device or resource busy"))
    name, _ = run()
    assert name == "Completed"
    assert workshop.calls["build int8"] == 2


def test_champion_that_does_not_answer_is_reported(workshop: Workshop, run: Any) -> None:
    workshop.fail("register champion", ToolFailed("answers unlike ONNX Runtime GenAI"))
    name, outcome = run()
    assert name == "Refused"
    assert "unlike" in outcome.failures["registration"]
    assert outcome.report.is_file()


def test_what_was_not_measured_is_measured_by_the_next_run(workshop: Workshop, run: Any) -> None:
    workshop.unmeasured = "decode.repeat_mismatches"
    name, _ = run()
    assert name == "Refused"
    workshop.unmeasured = None
    name, _ = run()
    assert name == "Completed"
    assert workshop.calls["examine int4"] == 2
    assert workshop.calls["build int4"] == 1


def test_all_builds_failing_is_the_flows_failure(workshop: Workshop, run: Any) -> None:
    for precision in ("int4", "int8", "fp16"):
        workshop.fail(f"build {precision}", ToolFailed("no"))
    name, problem = run()
    assert name == "Failed"
    assert isinstance(problem, ToolFailed)


def test_reference_that_fails_ends_the_run(workshop: Workshop, run: Any) -> None:
    workshop.fail("build fp32", DoesNotFit("too large"))
    name, problem = run()
    assert name == "Failed"
    assert isinstance(problem, DoesNotFit)
    assert workshop.calls["examine int4"] == 0


def test_refused_checkpoint_spends_nothing(
    workshop: Workshop, run: Any, demo_checkpoint: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(demo_checkpoint, broken)
    (broken / "config.json").unlink()
    _, problem = run(checkpoint=broken)
    assert isinstance(problem, CheckpointRefused)
    assert not workshop.calls
    assert not Settings().store.exists()


def test_unadmitted_content_is_refused_by_the_flow_itself(
    workshop: Workshop, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Checkpoint:
        raise CheckpointRefused("NaN in lm_head.weight")

    monkeypatch.setattr(admit, "admit_checkpoint", refuse)
    name, problem = run()
    assert name == "Failed"
    assert isinstance(problem, CheckpointRefused)
    assert not workshop.calls
