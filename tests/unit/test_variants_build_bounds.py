"""What surrounds the children of a build: nothing of another checkpoint, and room for the probe."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.child import Usage
from tasks.core.errors import ResourceBusy
from tasks.core.records import Checkpoint, Quantisation, Variant
from tasks.core.settings import Settings
from tasks.variants import build
from tasks.variants.build import probe_limit_bytes
from tasks.variants.build_records import BuildRequest, BuildResult, ProbeResult
from tasks.variants.recipes import REFERENCE
from tests.sample_checkpoint import change_json, write_sample_checkpoint

GIB = 1024**3


class FakeChildren:
    """Builds a file of some bytes, and remembers the bounds that the children were given."""

    def __init__(self, model_bytes: int = 1, meanwhile: Callable[[], object] = int) -> None:
        self.limits: dict[str, int | None] = {}
        self._model_bytes = model_bytes
        self._meanwhile = meanwhile

    def __call__(
        self, target: str, request: Any, _result: type, **bounds: Any
    ) -> tuple[BuildResult | ProbeResult, Usage]:
        self.limits[target] = bounds["memory_limit_bytes"]
        usage = Usage(1.0, 1.0, 1)
        if not isinstance(request, BuildRequest):
            return ProbeResult(prompt_tokens=1, tokens=[1]), usage
        self._meanwhile()
        request.model_folder.mkdir()
        with (request.model_folder / "model.onnx.data").open("wb") as stream:
            stream.truncate(self._model_bytes)
        counted = Quantisation(bits={}, block_sizes={}, symmetric=True, embedding_bits=32)
        return BuildResult(quantisation=counted, context_length=1, eos_token_ids=[2]), usage


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return admit_checkpoint(write_sample_checkpoint(tmp_path / "model"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def run(
    children: FakeChildren,
    checkpoint: Checkpoint,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> Variant:
    monkeypatch.setattr(build, "run_child", children)
    return build.build_variant(checkpoint, REFERENCE, settings=settings, memory_limit_bytes=GIB)


def test_checkpoint_that_changes_during_the_build_is_not_published_under_its_old_digest(
    checkpoint: Checkpoint, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = checkpoint.path / "config.json"
    trainer = FakeChildren(meanwhile=lambda: change_json(config, torch_dtype="float32"))
    with pytest.raises(ResourceBusy, match=r"config\.json was written last"):
        run(trainer, checkpoint, settings, monkeypatch)
    assert build.PROBE_TARGET not in trainer.limits
    assert not list(settings.store.glob("objects/*"))
    assert not list(settings.store.glob("tmp/*"))


def test_unchanged_checkpoint_is_published(
    checkpoint: Checkpoint, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = run(FakeChildren(), checkpoint, settings, monkeypatch)
    assert [folder.name for folder in settings.store.glob("objects/*")] == [variant.digest]


def test_probe_has_room_for_fp16_weights_that_become_fp32(
    checkpoint: Checkpoint, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = FakeChildren(model_bytes=1000)
    run(children, checkpoint, settings, monkeypatch)
    assert children.limits == {build.BUILD_TARGET: GIB, build.PROBE_TARGET: 3000 + 2 * GIB}


def test_probe_has_at_least_what_the_build_had(tmp_path: Path) -> None:
    assert probe_limit_bytes(tmp_path, 9 * GIB) == 9 * GIB
    assert probe_limit_bytes(tmp_path, None) is None


def test_sampling_default_without_a_place_is_logged(
    checkpoint: Checkpoint,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    admitted = checkpoint.model_copy(update={"sampling": {"min_p": 0.05}})
    run(FakeChildren(), admitted, settings, monkeypatch)
    assert "without min_p=0.05" in caplog.text
