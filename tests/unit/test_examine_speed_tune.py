"""Another number of threads is taken only when it is faster without a doubt; files are linked.

The sealed original stays as it was, whatever happens to what was linked to it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.core.errors import VariantUnusable
from tasks.core.records import Precision, Quantisation, Recipe, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.protocol import Protocol, TimingPlan
from tasks.examine.speed import tune
from tasks.examine.speed.tune import Proof, Setting, candidates, tune_variants
from tasks.examine.speed.tune_child import AS_BUILT, Swept, choice_of

PROTOCOL = Protocol(bootstrap_samples=300)
BEST = Setting(threads=2, spinning=False)


def test_candidates_are_one_thread_half_and_all_cores_each_once() -> None:
    def said(cores: int) -> list[str]:
        return [setting.in_words() for setting in candidates(cores)]

    assert said(1) == ["1 thread, not spinning"]
    assert said(2) == [
        "1 thread, not spinning",
        "2 threads, not spinning",
        "2 threads, spinning",
    ]
    assert [setting.threads for setting in candidates(8)] == [1, 4, 4, 8, 8]


def test_setting_is_said_in_the_engines_words() -> None:
    options = Setting(threads=4, spinning=True).session_options()
    assert options == {"intra_op_num_threads": 4, "session.intra_op.allow_spinning": "1"}


def rows(ratio: float, *, noise: float = 0.02, contended: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    found = []
    for launch in range(3):
        for number in range(-1, 6):
            for setting, slow in ((AS_BUILT, 1.0), (BEST.in_words(), ratio)):
                place = {"stage": "confirm", "launch": launch, "round": number}
                seconds = slow * rng.lognormal(0, noise) * (9 if number < 0 else 1)
                found.append(place | {"setting": setting, "e2e_s": seconds, "contended": contended})
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    ("ratio", "noise", "taken"),
    [(0.8, 0.02, True), (0.97, 0.02, False), (0.8, 0.6, False), (1.3, 0.02, False)],
)
def test_only_a_gain_beyond_doubt_is_taken(ratio: float, noise: float, taken: bool) -> None:
    choice = choice_of("4" * 64, Swept(BEST, rows(ratio, noise=noise)), PROTOCOL)
    assert choice.taken is taken
    assert choice.gain.n == 18
    assert bool(choice.notes) is taken


def test_nothing_is_taken_from_a_busy_machine() -> None:
    choice = choice_of("4" * 64, Swept(BEST, rows(0.5, contended=True)), PROTOCOL)
    assert (choice.taken, choice.contended, choice.gain.value) == (False, True, None)


def test_sweep_that_was_too_dear_says_so_and_takes_nothing() -> None:
    choice = choice_of("4" * 64, Swept(None, pd.DataFrame(), "too slow"), PROTOCOL)
    assert (choice.taken, choice.gain.applies, choice.notes) == (False, False, ["too slow"])


def built(settings: Settings) -> Variant:
    """Put a folder with a config, weights and a folder inside into the store."""
    store = Store(settings.store)
    with store.staging() as staged:
        folder = staged / "model"
        (folder / "more").mkdir(parents=True)
        (folder / "model.onnx.data").write_bytes(b"weights")
        (folder / "more" / "file").write_bytes(b"more")
        config: dict[str, Any] = {"model": {"decoder": {"session_options": {"log_id": "x"}}}}
        (folder / "genai_config.json").write_text(json.dumps(config))
        digest = store.publish(folder)
    return Variant(
        checkpoint_digest="c" * 64,
        recipe=Recipe(precision=Precision.INT4),
        digest=digest,
        toolchain="test",
        size_bytes=1,
        quantisation=Quantisation(bits={}, block_sizes={}, symmetric=True, embedding_bits=32),
        context_length=512,
        eos_token_ids=[2],
        build_seconds=1.0,
        build_cpu_s=1.0,
        build_peak_rss_bytes=1,
    )


def loads(*_: Any, **__: Any) -> tuple[Proof, None]:
    return Proof(start_s=1.0), None


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(tune, "run_child", loads)
    return Settings(home=tmp_path)


def test_tuned_variant_is_the_same_files_with_another_setting(settings: Settings) -> None:
    variant, store = built(settings), Store(settings.store)
    tuned = tune._published(variant, BEST, settings)
    old, new = store.path(variant.digest), store.path(tuned.digest)
    assert store.is_intact(variant.digest, deep=True)
    assert store.is_intact(tuned.digest, deep=True)
    options = json.loads((new / "genai_config.json").read_text())["model"]["decoder"]
    assert options["session_options"] == {"log_id": "x", **BEST.session_options()}
    assert (new / "model.onnx.data").samefile(old / "model.onnx.data")
    assert (new / "more" / "file").read_bytes() == b"more"
    assert tuned.size_bytes == sum(f.stat().st_size for f in new.rglob("*") if f.is_file()) - len(
        (new / ".manifest.json").read_bytes()
    )


def sealed(store: Store, variant: Variant) -> bool:
    files = [file for file in store.path(variant.digest).rglob("*") if file.is_file()]
    return not any(file.stat().st_mode & 0o222 for file in files)


@pytest.mark.skipif(os.name == "nt", reason="there the files are copied, not linked")
def test_original_stays_sealed_when_it_is_tuned_twice_and_when_the_tuned_one_fails(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, store = built(settings), Store(settings.store)
    first = tune._published(variant, BEST, settings)
    assert tune._published(variant, BEST, settings) == first
    assert sealed(store, variant)

    def broken(*_: Any, **__: Any) -> None:
        raise VariantUnusable("it does not load")

    monkeypatch.setattr(tune, "run_child", broken)
    with pytest.raises(VariantUnusable, match="does not load"):
        tune._published(variant, Setting(threads=1, spinning=False), settings)
    assert sealed(store, variant)
    assert sealed(store, first)
    assert sorted(entry.name for entry in (settings.store / "objects").iterdir()) == sorted(
        [variant.digest, first.digest]
    )


def test_without_a_budget_nothing_is_swept(settings: Settings) -> None:
    variant = built(settings)
    protocol = Protocol(timing=TimingPlan(tune_budget_s=0.0))
    tuned = tune_variants([variant], protocol=protocol, settings=settings)
    assert (tuned.variants, tuned.is_settled()) == ([variant], True)
    assert not any(m.applies for part in tuned.evidence for m in part.metrics.values())
    assert tuned.objects() == [variant.digest]
