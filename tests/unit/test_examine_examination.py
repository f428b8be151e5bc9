"""The parent side of an examination is light, hashes what it examines and publishes all or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import ToolFailed, VariantUnusable
from tasks.core.records import (
    Evidence,
    Expectation,
    Message,
    Precision,
    Quantisation,
    Question,
    Recipe,
    Variant,
)
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.examination import FramesRequest, deadline_s, examine_in_child, intact_folder
from tasks.examine.speed import SpeedEvidence

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


def test_one_changed_byte_is_refused(tmp_path: Path) -> None:
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


def test_deadline_grows_with_the_model_and_the_questions() -> None:
    asked = Question(
        id="q",
        category="c",
        messages=[Message(role="user", content="word " * 100)],
        expectation=Expectation(kind="contains", value="x"),
    )
    small, large = deadline_s(1_000_000, [asked], 128), deadline_s(3_000_000_000, [asked], 128)
    assert 300 < small < 310 < large
    assert deadline_s(3_000_000_000, [asked] * 100, 128) > 20 * large


def test_speed_evidence_stands_for_its_frames_once() -> None:
    part = Evidence(suite="speed", subject="0" * 64, metrics={}, frames="1" * 64)
    assert SpeedEvidence(evidence=[part, part]).objects() == ["1" * 64]


def test_flow_side_modules_import_no_heavy_tool() -> None:
    code = (
        "import sys, tasks.examine.reference, tasks.examine.variant, tasks.examine.speed, "
        f"tasks.core.questions; print([name for name in {HEAVY} if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
