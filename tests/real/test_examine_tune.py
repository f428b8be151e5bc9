"""Threads and spinning are swept with real workers; what is published loads and does as written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from tasks.core.errors import VariantUnusable
from tasks.core.records import Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.examination import usable_cores
from tasks.examine.protocol import Protocol, TimingPlan
from tasks.examine.speed import tune
from tasks.examine.speed.lanes import Lane, workers_of
from tasks.examine.speed.tune import Setting, candidates, tune_variants
from tests.foundry_variants import publish, tiny_folder

pytestmark = pytest.mark.real

PLAN = TimingPlan(launches=2, rounds=3, tune_budget_s=60.0)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def variant(settings: Settings) -> Variant:
    return publish(settings)


def threads_of(folder: Path) -> int:
    with workers_of([Lane("tuned", "0" * 64, folder)]) as [worker]:
        return psutil.Process(worker._process.pid).num_threads()


def test_sweep_times_every_setting_and_keeps_or_publishes(
    settings: Settings, variant: Variant
) -> None:
    protocol = Protocol(timing=PLAN, bootstrap_samples=300)
    tuned = tune_variants([variant], protocol=protocol, settings=settings)
    store = Store(settings.store)
    assert all(store.is_intact(digest, deep=True) for digest in tuned.objects())
    [evidence], [kept] = tuned.evidence, tuned.variants
    assert evidence.subject == kept.digest
    assert set(evidence.metrics) == {"tune.threads", "tune.spinning", "tune.gain"}
    assert evidence.frames is not None
    rows = pd.read_parquet(store.path(evidence.frames) / "tuning.parquet")
    swept = {setting.in_words() for setting in candidates(usable_cores())}
    assert set(rows.loc[rows["stage"] == "screen", "setting"]) == {"as built", *swept}
    # Either the machine was busy, and then nothing was confirmed, or there is an interval.
    assert (evidence.metrics["tune.gain"].ci95 is None) == bool(tuned.contended)


def test_tuned_folder_runs_with_the_threads_that_are_written(
    settings: Settings, variant: Variant
) -> None:
    store = Store(settings.store)
    one, three = (
        tune._published(variant, Setting(threads=count, spinning=True), settings)
        for count in (1, 3)
    )
    assert threads_of(store.path(three.digest)) == threads_of(store.path(one.digest)) + 2


def test_setting_that_the_engine_does_not_know_is_never_published(
    settings: Settings, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "THREADS", "no_such_number")
    with pytest.raises(VariantUnusable, match="tuned variant ended with code 1"):
        tune._published(variant, Setting(threads=1, spinning=True), settings)
    assert [path.name for path in (settings.store / "objects").iterdir()] == [variant.digest]


def greedy(folder: Path, options: dict[str, object]) -> list[int]:
    """Give 64 greedy tokens after 64, with session options laid over a folder's."""
    import json

    import onnxruntime_genai as og

    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = og.Model(config)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, batch_size=1, max_length=128, min_length=128)
    generator = og.Generator(model, parameters)
    generator.append_tokens(np.arange(1, 65, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]


def test_threads_change_the_speed_and_not_a_token(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder(), tmp_path / "model")
    found = [
        greedy(folder, Setting(threads=threads, spinning=spinning).session_options())
        for threads, spinning in ((1, False), (2, False), (2, True))
    ]
    assert found[0] == found[1] == found[2]
