"""The examination on the demo checkpoint: sound variants pass through, planted faults show."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.errors import ToolFailed, VariantUnusable
from tasks.core.records import Evidence, Precision
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.protocol import Protocol
from tasks.examine.variant import examine_variant
from tests.examine_subjects import Bench, bench_of

pytestmark = pytest.mark.real

PROTOCOL = Protocol(max_questions=150, kld_max_questions=60, bootstrap_samples=500)


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    demo_checkpoint: Path,
    demo_questions: Path,
    stock: dict[str, Path],
) -> Bench:
    scratch = tmp_path_factory.mktemp("examine")
    return bench_of(demo_checkpoint, demo_questions, stock, scratch, PROTOCOL)


def frame(bench: Bench, evidence: Evidence, name: str) -> pd.DataFrame:
    assert evidence.frames is not None
    return pd.read_parquet(Store(bench.settings.store).path(evidence.frames) / name)


@pytest.fixture(scope="module")
def sound(bench: Bench) -> Evidence:
    return bench.examine(bench.folders["int8"])


def value(evidence: Evidence, name: str) -> float:
    found = evidence.metrics[name].value
    assert found is not None, evidence.metrics[name].method
    return found


def test_reference_is_the_checkpoint_and_does_its_job(bench: Bench) -> None:
    assert value(bench.yardstick, "reference.kld_mean") < 1e-6
    method = bench.yardstick.metrics["reference.kld_mean"].method
    assert "64 of 150 questions sampled, and windows of plain text, at most 64" in method
    assert value(bench.yardstick, "reference.right") > 0.9
    assert value(bench.yardstick, "reference.stopped") == 1
    assert len(frame(bench, bench.yardstick, "answers.parquet")) == 150


def test_sound_variant_has_a_value_for_every_metric(bench: Bench, sound: Evidence) -> None:
    assert all(found.value is not None for found in sound.metrics.values())
    assert value(sound, "template.text_mismatches") == 0
    assert value(sound, "template.token_mismatches") == 0
    assert value(sound, "template.eos_missing") == 0
    assert value(sound, "decode.kld_mean") < 1e-4
    assert value(sound, "decode.repeat_mismatches") == 0
    assert value(sound, "decode.chunk_mismatches") == 0
    assert value(sound, "fidelity.kld_mean") < 0.01
    assert value(sound, "answers.right") > 0.9
    assert value(sound, "answers.stopped_ratio") == 1
    assert sound.cost is not None


def test_raw_rows_are_kept(bench: Bench, sound: Evidence) -> None:
    rows = frame(bench, sound, "kld.parquet")
    tokens = rows[rows["corpus"] == "questions"]
    assert tokens["kld"].mean() == pytest.approx(value(sound, "fidelity.kld_mean"))
    assert tokens["question_id"].nunique() == 60
    assert len(frame(bench, sound, "answers.parquet")) == 150
    assert frame(bench, sound, "categories.parquet")["n"].sum() == 150


def test_same_variant_examined_again_gives_the_same_evidence(bench: Bench, sound: Evidence) -> None:
    again = bench.examine(bench.folders["int8"])
    assert again.metrics == sound.metrics
    assert again.notes == sound.notes
    assert again.frames == sound.frames


def test_fp16_graph_for_the_cpu_fails_in_decoding_and_goes_no_further(bench: Bench) -> None:
    found = bench.examine(bench.folders["fp16"], Precision.FP16)
    assert value(found, "decode.failed") == 1
    for name in ("decode.kld_mean", "fidelity.kld_mean", "answers.right"):
        assert found.metrics[name].value is None
    assert "cannot decode" in found.metrics["answers.right"].method
    assert any(note.startswith("cannot decode: decoding failed") for note in found.notes)


def test_variant_whose_bytes_were_swapped_is_not_examined(bench: Bench) -> None:
    variant = bench.variant(bench.folders["int4"], Precision.INT4)
    store = Store(bench.settings.store)
    other = Settings(home=bench.scratch / "swapped")
    for digest in (bench.reference.digest, bench.yardstick.frames or ""):
        shutil.copytree(store.path(digest), Store(other.store).path(digest))
    shutil.copytree(
        store.path(bench.variant(bench.folders["int8"], Precision.INT8).digest),
        Store(other.store).path(variant.digest),
    )
    with pytest.raises(VariantUnusable, match="is not what was built"):
        examine_variant(
            bench.checkpoint,
            bench.reference,
            bench.yardstick,
            variant,
            bench.questions,
            protocol=PROTOCOL,
            settings=other,
        )


def test_answers_of_the_reference_to_other_questions_are_no_yardstick(bench: Bench) -> None:
    more = PROTOCOL.model_copy(update={"max_questions": 151})
    with pytest.raises(ToolFailed, match="answered other questions"):
        bench.examine(bench.folders["int8"], protocol=more)
