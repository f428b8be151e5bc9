"""A checkpoint that changes under the run: refused, and nothing of mixed bytes is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.checkpoint import admit
from tasks.core.checkpoint_files import require_unchanged
from tasks.core.errors import CheckpointRefused
from tasks.core.records import Checkpoint, Recipe, Variant
from tasks.core.settings import Settings
from tasks.foundry import stage
from tasks.variants import build
from tests.flow.test_release_flow import (  # noqa: F401  (fixtures, by their names)
    Workshop,
    run,
    workshop,
)

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server", "ingot_home")]


@pytest.fixture
def landed(tmp_path: Path, demo_checkpoint: Path) -> Path:
    """Give a checkpoint that somebody may still write to."""
    return Path(shutil.copytree(demo_checkpoint, tmp_path / "landed"))


def overwrite(landed: Path) -> None:
    weights = landed / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))


def kept(step: str) -> list[str]:
    """Name what is cached of a step."""
    return [file.name for file in Settings().records.glob(f"{step}-*")]


def test_change_while_it_is_admitted_admits_what_it_became(
    workshop: Workshop,  # noqa: F811
    run: Callable[..., tuple[str, Any]],  # noqa: F811
    landed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, times = admit._hash_and_scan, []

    def read_while_it_is_written(*arguments: Any) -> str:
        digest = read(*arguments)
        times.append(digest)
        if len(times) == 1:
            overwrite(landed)
        return digest

    monkeypatch.setattr(admit, "_hash_and_scan", read_while_it_is_written)
    name, outcome = run(checkpoint=landed)
    assert name == "Completed"
    assert outcome.checkpoint.digest == times[1] != times[0]


def test_change_during_a_build_is_refused_and_no_build_is_kept(
    workshop: Workshop,  # noqa: F811
    run: Callable[..., tuple[str, Any]],  # noqa: F811
    landed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build_meanwhile(checkpoint: Checkpoint, recipe: Recipe, **options: Any) -> Variant:
        variant = workshop.build(checkpoint, recipe, **options)
        (landed / "added_tokens.json").write_text("{}")
        require_unchanged(checkpoint)  # as the real one ends; see test_variants_build_bounds.py
        return variant

    monkeypatch.setattr(build, "build_variant", build_meanwhile)
    _, problem = run(checkpoint=landed)
    assert isinstance(problem, CheckpointRefused)
    assert "changed while it was in use" in str(problem)
    assert not kept("build-variant")
    assert all(count == 1 for count in workshop.calls.values())


def test_change_between_build_and_examination_is_refused_and_no_examination_is_kept(
    workshop: Workshop,  # noqa: F811
    run: Callable[..., tuple[str, Any]],  # noqa: F811
    landed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tune_meanwhile(variants: list[Variant], **options: Any) -> Any:
        overwrite(landed)
        return workshop_tunes(variants, **options)

    from tasks.examine.speed import tune

    workshop_tunes = workshop.tune
    monkeypatch.setattr(tune, "tune_variants", tune_meanwhile)
    _, problem = run(checkpoint=landed)
    assert isinstance(problem, CheckpointRefused)
    assert "model.safetensors was written last" in str(problem)
    assert not kept("examine")
    overwrite(landed)  # as it was
    monkeypatch.setattr(tune, "tune_variants", workshop_tunes)
    name, _ = run(checkpoint=landed)
    assert name == "Completed"
    assert workshop.calls["build int4"] == 1
    assert workshop.calls["examine reference"] == 2


def test_change_after_the_examination_is_refused_before_anything_ships(
    workshop: Workshop,  # noqa: F811
    run: Callable[..., tuple[str, Any]],  # noqa: F811
    landed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stage_meanwhile(*arguments: Any, **options: Any) -> Any:
        (landed / "added_tokens.json").write_text("{}")
        return workshop.stage(*arguments, **options)

    monkeypatch.setattr(stage, "examine_in_staging", stage_meanwhile)
    _, problem = run(checkpoint=landed)
    assert isinstance(problem, CheckpointRefused)
    assert not kept("stage-in-foundry-local")
    assert workshop.calls["register champion"] == 0
