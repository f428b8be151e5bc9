"""A sound variant keeps its memory in long use, and every planted leak is proven or seen.

Children import this module by its name, so the planted leaks are plain functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.core.child import run_child
from tasks.core.errors import VariantUnusable
from tasks.core.records import Checkpoint, Evidence, Measurement, Precision, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.protocol import Protocol, SoakPlan
from tasks.examine.soak import soak_child
from tasks.examine.soak.leak import LEAK_BUDGET_BYTES, METRIC_NAMES
from tasks.examine.soak.loop import COLUMNS
from tasks.examine.soak.soak import SoakChildRequest, soak_variant
from tests.examine_subjects import admitted, changed_copy, publish

pytestmark = pytest.mark.real

PROTOCOL = Protocol(soak=SoakPlan(warmup=100, generations=200, new_tokens=8))
VISIBLE_BYTES = 256.0


@dataclass(frozen=True)
class Built:
    """The demo checkpoint's INT4 variant in a store."""

    checkpoint: Checkpoint
    folder: Path
    variant: Variant
    settings: Settings


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Path, stock: dict[str, Path]
) -> Built:
    scratch = tmp_path_factory.mktemp("soak")
    checkpoint = admitted(demo_checkpoint)
    settings = Settings(home=scratch / "home")
    folder = stock["int4"]
    return Built(
        checkpoint, folder, publish(folder, Precision.INT4, checkpoint, settings), settings
    )


# ---------------------------------------------------------------- planted, in a child of their own


def losing_16_kib(request: SoakChildRequest) -> Evidence:
    return _losing(request, 16 * 1024)


def losing_1_kib(request: SoakChildRequest) -> Evidence:
    return _losing(request, 1024)


def keeping_1_generator_in_25(request: SoakChildRequest) -> Evidence:
    kept: list[Any] = []

    def keep(index: int, generator: Any) -> None:
        if index % 25 == 24:
            kept.append(generator)

    return soak_child.examine(request, on_generation=keep)


def leaving_files_open(request: SoakChildRequest) -> Evidence:
    files: list[Any] = []

    def leave(index: int, generator: Any) -> None:
        if index % 100 == 99:
            files.append(Path(__file__).open())  # noqa: SIM115  (never closed: the fault)

    return soak_child.examine(request, on_generation=leave)


def _losing(request: SoakChildRequest, size: int) -> Evidence:
    lost: list[bytes] = []
    return soak_child.examine(request, on_generation=lambda *_: lost.append(b"x" * size))


def soaked_with(fault: str, built: Built, scratch: Path) -> dict[str, Measurement]:
    request = SoakChildRequest(
        frames=scratch, digest=built.variant.digest, folder=built.folder, protocol=PROTOCOL
    )
    target = f"tests.real.test_examine_soak:{fault}"
    evidence, _ = run_child(
        target, request, Evidence, log=scratch / "log", deadline_s=300, environment={}
    )
    return evidence.metrics


def bounds(found: Measurement) -> tuple[float, float]:
    assert found.ci95 is not None, found.method
    return found.ci95


# ---------------------------------------------------------------- what is seen


def test_sound_variant_is_proven_to_keep_its_memory(built: Built) -> None:
    said: list[str] = []
    evidence = soak_variant(
        built.checkpoint, built.variant, protocol=PROTOCOL, settings=built.settings, say=said.append
    )
    metrics = evidence.metrics
    assert set(metrics) == set(METRIC_NAMES)
    assert evidence.is_settled()
    assert bounds(metrics["soak.heap_growth_bytes"])[1] < VISIBLE_BYTES
    assert bounds(metrics["soak.anon_growth_bytes"])[1] < LEAK_BUDGET_BYTES
    assert metrics["soak.thread_growth"].value == metrics["soak.descriptor_growth"].value == 0
    assert any("soak, generation" in line for line in said)

    assert evidence.frames is not None
    frames = Store(built.settings.store).path(evidence.frames)
    rows = pd.read_parquet(frames / "memory.parquet")
    assert list(rows.columns) == list(COLUMNS)
    assert len(rows) == 300
    assert list(rows["n_in"][:6]) == [16, 32, 64, 128, 192, 16]
    assert (rows["rss_b"] > rows["anon_b"]).all()
    assert (rows[["heap_b", "decode_s", "cpu_s"]] > 0).all(axis=None)


def test_16_kib_lost_a_generation_are_proven_in_heap_and_in_anonymous_memory(
    built: Built, tmp_path: Path
) -> None:
    metrics = soaked_with("losing_16_kib", built, tmp_path)
    assert bounds(metrics["soak.heap_growth_bytes"])[0] > 16_000
    assert bounds(metrics["soak.anon_growth_bytes"])[0] > LEAK_BUDGET_BYTES


def test_1_kib_lost_a_generation_is_seen_within_the_budget(built: Built, tmp_path: Path) -> None:
    metrics = soaked_with("losing_1_kib", built, tmp_path)
    low, high = bounds(metrics["soak.heap_growth_bytes"])
    assert VISIBLE_BYTES < 1000 < low < high < LEAK_BUDGET_BYTES


def test_generators_that_are_kept_are_proven(built: Built, tmp_path: Path) -> None:
    metrics = soaked_with("keeping_1_generator_in_25", built, tmp_path)
    assert bounds(metrics["soak.heap_growth_bytes"])[0] > LEAK_BUDGET_BYTES


def test_files_that_stay_open_are_counted(built: Built, tmp_path: Path) -> None:
    metrics = soaked_with("leaving_files_open", built, tmp_path)
    assert metrics["soak.descriptor_growth"].value == 2


def test_variant_that_fails_underway_is_measured_by_nothing(built: Built, tmp_path: Path) -> None:
    broken = changed_copy(
        built.folder, tmp_path / "broken", lambda folder: (folder / "model.onnx").unlink()
    )
    variant = publish(broken, Precision.INT4, built.checkpoint, built.settings)
    evidence = soak_variant(built.checkpoint, variant, protocol=PROTOCOL, settings=built.settings)
    assert set(evidence.metrics) == set(METRIC_NAMES)
    assert all(found.value is None and found.applies for found in evidence.metrics.values())
    assert "cannot load" in evidence.notes[0]


def test_variant_that_is_not_what_was_built_is_refused(built: Built, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    with pytest.raises(VariantUnusable, match="not what was built"):
        soak_variant(built.checkpoint, built.variant, protocol=PROTOCOL, settings=settings)
