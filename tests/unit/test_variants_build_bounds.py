"""What surrounds the children of builds: no other checkpoint, room for the probe, one for all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.child import Usage
from tasks.core.errors import CheckpointRefused, ChildKilled, VariantUnusable
from tasks.core.records import Checkpoint, Precision, Quantisation, Recipe, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.variants import build
from tasks.variants.build import probe_limit_bytes
from tasks.variants.build_records import (
    BuildResult,
    Failure,
    FanOutRequest,
    FanOutResult,
    ProbeRequest,
    ProbeResult,
)
from tasks.variants.recipes import REFERENCE, plan_recipes, recipe_slug
from tests.sample_checkpoint import change_json, write_sample_checkpoint

GIB = 1024**3


class FakeChildren:
    """Builds a file of some bytes, and remembers the bounds that the children were given."""

    def __init__(self, model_bytes: int = 1, meanwhile: Callable[[], object] = int) -> None:
        self.limits: dict[str, int | None] = {}
        self.together: list[list[str]] = []
        self.alone: list[str] = []
        self.probed: list[Path] = []
        self.failing: set[str] = set()
        self.probe_fault: Exception | None = None
        self._model_bytes = model_bytes
        self._meanwhile = meanwhile

    def __call__(
        self, target: str, request: Any, _result: type, **bounds: Any
    ) -> tuple[BuildResult | FanOutResult | ProbeResult, Usage]:
        self.limits[target] = bounds["memory_limit_bytes"]
        usage = Usage(1.0, 1.0, 1)
        if isinstance(request, ProbeRequest):
            self.probed.append(request.folder)
            if self.probe_fault:
                raise self.probe_fault
            return ProbeResult(prompt_tokens=1, tokens=[1]), usage
        self._meanwhile()
        if isinstance(request, FanOutRequest):
            return self._build_together(request), usage
        self.alone.append(recipe_slug(request.recipe))
        return self._build(request.model_folder), usage

    def _build_together(self, request: FanOutRequest) -> FanOutResult:
        slugs = [recipe_slug(recipe) for recipe in request.recipes]
        self.together.append(slugs)
        why = Failure(kind="ToolFailed", fields={"message": "planted"})
        return FanOutResult(
            built={s: self._build(request.models / s) for s in slugs if s not in self.failing},
            failures=dict.fromkeys(self.failing & set(slugs), why),
        )

    def _build(self, folder: Path) -> BuildResult:
        folder.mkdir()
        (folder / "model.onnx").write_text(folder.name)
        with (folder / "model.onnx.data").open("wb") as stream:
            stream.truncate(self._model_bytes)
        counted = Quantisation(bits={}, block_sizes={}, symmetric=True, embedding_bits=32)
        return BuildResult(quantisation=counted, context_length=1, eos_token_ids=[2], way="fast")


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
    with pytest.raises(CheckpointRefused, match=r"config\.json was written last"):
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
    needed = 3 * (1000 + len("alone")) + 2 * GIB
    assert children.limits == {build.BUILD_TARGET: GIB, build.PROBE_TARGET: needed}


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


# ---------------------------------------------------------------- several steps, one child

INT4, INT8, FP16 = plan_recipes(["int4", "int8", "fp16"])
ALL = [REFERENCE, INT4, INT8, FP16]


class Steps:
    """The steps of one release, on one machine."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings, children: FakeChildren) -> None:
        self._checkpoint = checkpoint
        self._settings = settings
        self.children = children
        self.reserved: list[int] = []

    def run(self, recipe: Recipe, siblings: Sequence[Recipe] = ALL) -> Variant:
        return build.build_variant(
            self._checkpoint,
            recipe,
            settings=self._settings,
            siblings=siblings,
            forecast_bytes=GIB,
            memory_limit_bytes=2 * GIB,
            reserve=self._reserve,
        )

    @contextmanager
    def _reserve(self, wanted_bytes: int) -> Iterator[None]:
        self.reserved.append(wanted_bytes)
        yield


@pytest.fixture
def steps(checkpoint: Checkpoint, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Steps:
    children = FakeChildren()
    monkeypatch.setattr(build, "run_child", children)
    return Steps(checkpoint, settings, children)


def test_first_step_builds_for_all_and_each_probes_its_own(steps: Steps) -> None:
    variants = [steps.run(recipe) for recipe in (INT8, INT4, REFERENCE, FP16)]
    assert steps.children.together == [["int8-b32-sym", "fp32", "int4-b32-sym", "fp16"]]
    assert steps.children.alone == []
    assert len(steps.children.probed) == len({variant.digest for variant in variants}) == 4
    assert variants[1].built_with == ["int8", "fp32", "int4", "fp16"]


def test_steps_side_by_side_build_once(steps: Steps) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(steps.run, ALL))
    assert len(steps.children.together) == 1
    assert steps.children.alone == []


def test_reservation_of_the_first_covers_all_and_the_others_reserve_to_probe_only(
    steps: Steps,
) -> None:
    steps.run(INT4)
    build_bytes = steps.reserved[0]
    assert build_bytes == GIB + 3 * build.SIBLING_BYTES
    assert steps.children.limits[build.FAN_OUT_TARGET] == 2 * GIB + 3 * build.SIBLING_BYTES
    steps.run(INT8)
    assert len(steps.reserved) == 3


def test_recipe_that_fails_among_others_is_built_alone_by_its_own_step(steps: Steps) -> None:
    steps.children.failing = {"int8-b32-sym"}
    steps.run(INT4)
    steps.run(INT8, siblings=[INT8])
    assert steps.children.alone == ["int8-b32-sym"]


def test_published_sibling_is_not_built_again(steps: Steps, settings: Settings) -> None:
    variants = {recipe: steps.run(recipe) for recipe in (INT4, INT8)}
    discard(settings, variants[INT4])
    steps.run(INT4, siblings=[INT4, INT8])
    assert steps.children.alone == ["int4-b32-sym"]


def test_damaged_object_is_built_again(steps: Steps, settings: Settings) -> None:
    first = steps.run(INT4, siblings=[])
    discard(settings, first)
    assert steps.run(INT4, siblings=[]).digest == first.digest
    assert steps.children.alone == ["int4-b32-sym"] * 2


def discard(settings: Settings, variant: Variant) -> None:
    Store(settings.store).discard(variant.digest)


def test_other_recipes_of_the_plain_way_are_left_to_their_steps(steps: Steps) -> None:
    k_quant = Recipe(precision=Precision.INT4, algorithm="k_quant", is_symmetric=False)
    steps.run(FP16, siblings=[k_quant, FP16])
    assert steps.children.alone == ["fp16"]


def test_unusable_build_is_forgotten(steps: Steps, settings: Settings) -> None:
    steps.children.probe_fault = VariantUnusable("planted")
    with pytest.raises(VariantUnusable):
        steps.run(INT4)
    steps.children.probe_fault = None
    steps.run(INT4)
    assert steps.children.alone == ["int4-b32-sym"]


def test_killed_probe_costs_no_second_build(steps: Steps) -> None:
    steps.children.probe_fault = ChildKilled("planted")
    with pytest.raises(ChildKilled):
        steps.run(INT4)
    steps.children.probe_fault = None
    steps.run(INT4)
    assert len(steps.children.together) == 1
    assert steps.children.alone == []
