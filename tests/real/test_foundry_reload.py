"""Loading and unloading in the real Foundry Local: memory comes back, and planted leaks show."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.records import Measurement, Message
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.foundry.reload import GROWTH, WARM_UPS, ReloadRequest, reload_champion
from tasks.foundry.reload_child import cycle
from tasks.foundry.runtime import FoundryRuntime, LoadedModel, Reply, foundry_runtime
from tests.foundry_variants import tiny_folder

pytestmark = pytest.mark.real

MODEL_ID = "reload-cpu:1"
MIB = 1024**2
LIMIT = 256 * 1024  # the gate's
MESSAGES = [Message(role="user", content="hello")]


@pytest.fixture
def request_(tmp_path: Path) -> ReloadRequest:
    """Give a request on an index in which the tiny folder is registered."""
    with foundry_runtime(tmp_path / "index", tmp_path / "app") as runtime:
        runtime.register(MODEL_ID, tiny_folder(), {})
    return ReloadRequest(
        index=tmp_path / "index",
        app_data=tmp_path / "app",
        model_id=MODEL_ID,
        messages=MESSAGES,
        cycles=6,
        frames=tmp_path,
    )


def ends(found: Measurement) -> tuple[float, float]:
    assert found.ci95 is not None, found.method
    return found.ci95


def test_memory_of_a_model_comes_back_each_time(request_: ReloadRequest) -> None:
    found = cycle(request_)
    assert ends(found.growth)[1] <= LIMIT
    rows = pd.read_parquet(request_.frames / "foundry_cycles.parquet")
    assert list(rows.counts) == [False] * WARM_UPS + [True] * 6
    assert {"i", "t_s", "rss_b", "anon_b", "loaded_rss_b"} <= set(rows.columns)


def test_mib_that_is_kept_each_time_is_beyond_the_limit(
    request_: ReloadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bytes] = []
    ask = LoadedModel.ask

    def hoard(model: LoadedModel, messages: list[Message], *, max_tokens: int) -> Reply:
        kept.append(b"x" * MIB)
        return ask(model, messages, max_tokens=max_tokens)

    monkeypatch.setattr(LoadedModel, "ask", hoard)
    assert ends(cycle(request_).growth)[0] > LIMIT


def test_models_that_are_never_unloaded_are_beyond_the_limit(
    request_: ReloadRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a runtime that keeps the model does: each load takes its memory again."""
    numbers = iter(range(100))

    @contextmanager
    def load_another_and_keep_it(runtime: FoundryRuntime, _: str) -> Iterator[LoadedModel]:
        model_id = f"kept-{next(numbers)}-cpu:1"
        runtime.register(model_id, copied(tmp_path / model_id.partition(":")[0]), {})
        model = runtime._catalog.get_model_variant(model_id)
        model.load()
        yield LoadedModel(model, model_id, tmp_path)

    monkeypatch.setattr(FoundryRuntime, "loaded", load_another_and_keep_it)
    assert ends(cycle(request_).growth)[0] > LIMIT


def copied(folder: Path) -> Path:
    shutil.copytree(tiny_folder(), folder)
    return folder


def test_model_that_is_still_listed_as_loaded_is_not_measured(
    request_: ReloadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FoundryRuntime, "loaded_ids", lambda _: [MODEL_ID])
    found = cycle(request_)
    assert found.growth.value is None
    assert "still loaded" in found.notes[0]


def test_model_that_does_not_load_is_not_measured(request_: ReloadRequest) -> None:
    found = cycle(request_.model_copy(update={"model_id": "nobody-cpu:1"}))
    assert found.growth.value is None
    assert "not registered" in found.growth.method


def test_champion_is_loaded_through_the_production_index_which_stays_as_it_is(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path / "home")
    with foundry_runtime(settings.foundry, settings.logs / "foundry") as runtime:
        runtime.register(MODEL_ID, tiny_folder(), {})
    index = settings.foundry / "foundry.local.modelinfo.json"
    before = index.read_bytes()
    evidence = reload_champion(settings, MODEL_ID, "a" * 64, MESSAGES, cycles=4)
    assert ends(evidence.metrics[GROWTH])[1] <= LIMIT
    assert index.read_bytes() == before
    assert Store(settings.store).is_intact(evidence.frames or "")
