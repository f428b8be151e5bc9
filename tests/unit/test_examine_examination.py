"""The parent side of an examination is light, hashes what it examines and publishes all or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import ToolFailed, VariantUnusable
from tasks.core.questions import questions_digest
from tasks.core.records import (
    Evidence,
    ExaminationProfile,
    Expectation,
    Measurement,
    Message,
    Precision,
    Quantisation,
    Question,
    Recipe,
    Variant,
)
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine import examination
from tasks.examine import variant as variant_step
from tasks.examine.examination import (
    FramesRequest,
    deadline_s,
    examine_in_child,
    intact_folder,
    usable_cores,
)
from tasks.examine.protocol import Protocol
from tasks.examine.reference import QUESTIONS_FILE
from tasks.examine.speed.measure import SpeedEvidence

HEAVY = ("numpy", "pandas", "torch", "scipy", "transformers", "onnxruntime_genai", "jsonschema")


def measure(request: FramesRequest) -> Evidence:
    (request.frames / "rows.txt").write_text("measured")
    return Evidence(suite="test", subject="0" * 64, metrics={})


def stumble(request: FramesRequest) -> Evidence:
    (request.frames / "rows.txt").write_text("half")
    raise KeyError("missing")


def examined(name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    _, frames, cost = examine_in_child(
        f"{Path(__file__).stem}:{name}",
        lambda frames: FramesRequest(frames=frames),
        Evidence,
        log_name="test.log",
        deadline_s=60.0,
        settings=settings,
        say=lambda line: None,
    )
    assert cost.peak_rss_bytes > 0
    return frames


def test_frames_are_published_with_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path)
    frames = Store(settings.store).path(examined("measure", settings, monkeypatch))
    assert (frames / "rows.txt").read_text() == "measured"


def test_failed_child_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(ToolFailed, match="KeyError"):
        examined("stumble", settings, monkeypatch)
    assert not list(tmp_path.rglob("rows.txt"))


def test_one_changed_byte_is_refused_and_the_next_run_builds_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.staging() as staged:
        (staged / "model.onnx").write_bytes(b"weights")
        digest = store.publish(staged)
    variant = Variant(
        checkpoint_digest="0" * 64,
        recipe=Recipe(precision=Precision.INT4),
        digest=digest,
        toolchain="",
        size_bytes=7,
        quantisation=Quantisation(bits={}, block_sizes={}, symmetric=True, embedding_bits=4),
        context_length=64,
        eos_token_ids=[1],
        build_seconds=0,
        build_cpu_s=0,
        build_peak_rss_bytes=0,
    )
    file = intact_folder(variant, store) / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(b"weightz")
    with pytest.raises(VariantUnusable, match="int4 variant in the store is not what was built"):
        intact_folder(variant, store)
    # By its size alone it would stay a cache hit, and never be built anew.
    assert not store.is_intact(digest)
    assert not store.path(digest).exists()


def question(*, answer: str | None = None, expected: str = "x") -> Question:
    return Question(
        id="q",
        category="c",
        messages=[Message(role="user", content="word " * 100)],
        expectation=Expectation(kind="contains", value=expected),
        answer=answer,
    )


def test_deadline_grows_with_the_model_and_the_questions() -> None:
    def allowed(parameters: int, count: int) -> float:
        return deadline_s(parameters, [question()] * count, Protocol(), passes=1)

    small, large = allowed(1_000_000, 1), allowed(3_000_000_000, 1)
    assert 300 < small < 400 < large
    assert allowed(3_000_000_000, 10_000) > 3 * large


def test_deadline_leaves_time_for_answers_as_long_as_they_may_become() -> None:
    protocol = Protocol()
    essay = question(answer="x" * 6000)  # some 2,000 tokens
    allowed = deadline_s(1_000_000_000, [essay], protocol, passes=1)
    assert allowed > 300 + protocol.answer_limit(2000) / 1.0  # at one token a second
    thrice = deadline_s(1_000_000_000, [essay], protocol, passes=3)
    twice = deadline_s(1_000_000_000, [essay], protocol, passes=2)
    assert thrice - twice == pytest.approx(twice - allowed)


def test_deadline_leaves_time_for_plain_text_and_filled_prompts() -> None:
    short = Protocol.of(ExaminationProfile.SMOKE)
    long = short.model_copy(update={"text": Protocol.of(ExaminationProfile.FULL).text})
    asked = [question()]
    assert deadline_s(10**9, asked, long, passes=1) > deadline_s(10**9, asked, short, passes=1) + 10


def test_threads_are_no_more_than_the_cores_we_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination.psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(examination.os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(examination.os, "sched_getaffinity")
    assert usable_cores() == 8


def reference_frames(settings: Settings, answered: list[Question]) -> Evidence:
    store = Store(settings.store)
    with store.staging() as staged:
        (staged / QUESTIONS_FILE).write_text(questions_digest(answered))
        frames = store.publish(staged)
    return Evidence(suite="reference", subject="0" * 64, metrics={}, frames=frames)


def test_answers_to_a_question_of_the_same_id_that_expects_another_are_no_yardstick(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    yardstick = reference_frames(settings, [question()])
    frames = variant_step._frames_of(yardstick, Store(settings.store))
    variant_step._require_answers_to([question()], frames)
    with pytest.raises(ToolFailed, match="answered other questions"):
        variant_step._require_answers_to([question(expected="y")], frames)


def test_damaged_answers_of_the_reference_are_removed_so_that_they_are_made_anew(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    store, yardstick = Store(settings.store), reference_frames(settings, [question()])
    assert yardstick.frames is not None
    file = store.path(yardstick.frames) / QUESTIONS_FILE
    file.chmod(0o644)
    file.write_text("f" * 64)
    with pytest.raises(ToolFailed, match="not in the store"):
        variant_step._frames_of(yardstick, store)
    assert not store.path(yardstick.frames).exists()


def timed(low: float, high: float, value: float | None = 1.0) -> SpeedEvidence:
    ratio = Measurement(value=1.0, ci95=(low, high))
    metrics = {"speed.aa_ratio": ratio, "speed.ttft_s": Measurement(value=value)}
    return SpeedEvidence(evidence=[Evidence(suite="speed", subject="0" * 64, metrics=metrics)])


def test_speed_on_an_unfair_clock_or_without_a_value_is_not_settled() -> None:
    assert timed(0.9, 0.96).is_settled()
    assert timed(1.04, 1.3).is_settled()
    assert not timed(1.06, 1.3).is_settled()
    assert not timed(0.7, 0.94).is_settled()
    assert not timed(0.99, 1.01, value=None).is_settled()


def test_speed_evidence_stands_for_its_frames_once() -> None:
    part = Evidence(suite="speed", subject="0" * 64, metrics={}, frames="1" * 64)
    assert SpeedEvidence(evidence=[part, part]).objects() == ["1" * 64]


def test_flow_side_modules_import_no_heavy_tool() -> None:
    code = (
        "import sys, tasks.examine.reference, tasks.examine.variant, tasks.examine.soak.soak, "
        "tasks.examine.speed.measure, tasks.examine.speed.tune, tasks.examine.edge.edge, "
        f"tasks.core.questions; print([name for name in {HEAVY} if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
