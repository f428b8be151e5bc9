"""A build is published whole or not at all, and `olive run` by hand gives the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file, save_file

from tasks.core.errors import ChildKilled, DoesNotFit, RecipeRefused, VariantUnusable
from tasks.core.records import Checkpoint, Precision, Recipe
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.variants.build import build_variant
from tasks.variants.olive_config import olive_config, package_config
from tasks.variants.recipes import REFERENCE
from tests.tiny_models import checkpoint_record, write_tiny_checkpoint

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).parents[2]
INT8 = Recipe(precision=Precision.INT8)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return checkpoint_record(write_tiny_checkpoint(tmp_path / "checkpoint", tied=True))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return Settings(home=tmp_path / "home with a space")


def visible(settings: Settings) -> list[str]:
    return sorted(
        str(entry.relative_to(settings.store))
        for folder in ("objects", "tmp")
        for entry in (settings.store / folder).glob("*")
    )


def kill_builder_once_it_builds(line: str) -> None:
    if "building" not in line:
        return
    for child in psutil.Process().children(recursive=True):
        if any("build_child" in word for word in child.cmdline()):
            child.send_signal(signal.SIGKILL)


def test_killed_build_leaves_nothing_and_the_next_gives_what_olive_gives_by_hand(
    checkpoint: Checkpoint, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ChildKilled):
        build_variant(checkpoint, INT8, settings=settings, say=kill_builder_once_it_builds)
    assert visible(settings) == []

    lines: list[str] = []
    variant = build_variant(checkpoint, INT8, settings=settings, say=lines.append)
    assert visible(settings) == [f"objects/{variant.digest}"]
    assert Store(settings.store).is_intact(variant.digest, deep=True)
    assert variant.build_peak_rss_bytes > 0
    assert any("INT8" in line for line in lines)

    published = Store(settings.store).path(variant.digest)
    by_hand = run_olive_by_hand(checkpoint, tmp_path)
    for file in published.glob("[!.]*"):
        if not file.name.startswith("olive_"):
            assert (by_hand / file.name).read_bytes() == file.read_bytes(), file.name

    damage(published / "model.onnx.data")
    assert not Store(settings.store).is_intact(variant.digest)


def run_olive_by_hand(checkpoint: Checkpoint, folder: Path) -> Path:
    config = olive_config(
        checkpoint.path, INT8, output=folder / "by-hand", cache=folder / "by-hand-cache"
    )
    (folder / "c.json").write_text(json.dumps(config))
    (folder / "p.json").write_text(json.dumps(package_config()))
    olive = Path(sys.executable).with_name("olive")
    subprocess.run(
        [olive, "run", "--config", "c.json", "--package-config", "p.json"],
        cwd=folder,
        env={**os.environ, "CI": "1", "PYTHONPATH": str(REPOSITORY)},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder / "by-hand"


def damage(file: Path) -> None:
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-1])


def test_build_that_outgrows_its_memory_is_stopped_and_leaves_nothing(
    checkpoint: Checkpoint, settings: Settings
) -> None:
    with pytest.raises(DoesNotFit):
        build_variant(checkpoint, INT8, settings=settings, memory_limit_bytes=100 * 1024 * 1024)
    assert visible(settings) == []


def test_variant_that_fails_its_probe_is_not_published(
    checkpoint: Checkpoint, settings: Settings
) -> None:
    poison(checkpoint.path / "model.safetensors", "model.norm.weight")
    admitted = checkpoint_record(checkpoint.path)
    with pytest.raises(VariantUnusable, match="not finite"):
        build_variant(admitted, REFERENCE, settings=settings)
    assert visible(settings) == []


def poison(weights: Path, name: str) -> None:
    tensors = load_file(weights)
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, weights, metadata={"format": "pt"})


def test_refused_recipe_starts_nothing(checkpoint: Checkpoint, settings: Settings) -> None:
    recipe = Recipe(precision=Precision.INT4, is_symmetric=False, builder="plain")
    with pytest.raises(RecipeRefused):
        build_variant(checkpoint, recipe, settings=settings)
    assert not settings.logs.exists()
