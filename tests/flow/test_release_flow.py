"""The order of a release, and what happens when one of its steps goes wrong.

The steps are hand-written fakes; each is held against the real thing in tests/real.
"""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import unchanged
from flows.parameters import ReleaseRequest
from flows.preflight import check_request
from flows.release import release
from tasks.checkpoint import admit
from tasks.core.errors import (
    CheckpointRefused,
    ChildKilled,
    DoesNotFit,
    ToolFailed,
    VariantUnusable,
)
from tasks.core.records import Checkpoint, Precision, Release
from tasks.core.settings import Settings
from tasks.core.store import Store
from tests.release_workshop import SIZES, Workshop, opened_workshop

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server", "ingot_home")]


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return opened_workshop(monkeypatch)


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


def test_run_notes_what_it_was_made_of(
    workshop: Workshop,
    run: Any,
    demo_checkpoint: Path,
    demo_questions: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unchanged, "is_in_place", lambda champion, settings: True)
    _, outcome = run()
    fields = {"checkpoint": demo_checkpoint, "questions": demo_questions, "name": "demo"}
    request = ReleaseRequest.model_validate(fields)
    found = unchanged.unchanged_release(request, check_request(request), Settings())
    assert found is not None
    assert found.run_id == outcome.run_id
    workshop.fail("register champion", VariantUnusable("does not answer"))
    run()
    assert unchanged.unchanged_release(request, check_request(request), Settings()) is None


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


def test_variant_undecided_on_questions_is_asked_more_of_them_once(
    workshop: Workshop, run: Any
) -> None:
    workshop.wide = {Precision.INT4: 1}
    _, outcome = run()
    assert outcome.registration.model_id == "demo-int4-cpu:1"
    assert workshop.calls["examine int4"] == 2
    assert workshop.calls["examine int8"] == 1
    assert sorted(workshop.asked) == [500, 500, 500, 1000]


def test_variant_undecided_after_the_second_look_does_not_ship(
    workshop: Workshop, run: Any
) -> None:
    workshop.wide = {Precision.INT4: 9}
    _, outcome = run()
    assert outcome.registration.model_id == "demo-int8-cpu:1"
    assert workshop.calls["examine int4"] == 2


def test_second_look_that_cannot_be_made_leaves_what_the_first_decided(
    workshop: Workshop, run: Any
) -> None:
    workshop.wide = {Precision.INT4: 9}
    workshop.reference_fault_after = 1
    name, outcome = run()
    assert name == "Partial"
    assert outcome.registration.model_id == "demo-int8-cpu:1"
    assert "second look" in outcome.failures


def test_profile_with_one_look_looks_once(workshop: Workshop, run: Any) -> None:
    workshop.wide = {Precision.INT4: 1}
    _, outcome = run(examination="smoke")
    assert outcome.registration.model_id == "demo-int8-cpu:1"
    assert workshop.calls["examine int4"] == 1


def test_variants_that_cannot_be_tuned_are_examined_as_built(workshop: Workshop, run: Any) -> None:
    workshop.fail("tune variants", VariantUnusable("does not load"))
    name, outcome = run()
    assert name == "Partial"
    assert outcome.failures == {"tuning": "does not load."}
    assert outcome.registration.model_id == "demo-int4-cpu:1"


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
