"""Plain text and positions on the demo checkpoint: sound variants are level, a wrong base shows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.questions import load_questions
from tasks.core.records import Measurement
from tasks.examine.divergence import distances
from tasks.examine.fidelity import (
    CONTROL,
    LONG,
    QUESTIONS,
    TEXT,
    TEXT_METRIC_NAMES,
    Corpus,
    compare_with_reference,
    fidelity_metrics,
    mean_kld,
    token_frame,
)
from tasks.examine.generation import Engine
from tasks.examine.hugging_face import CheckpointTokenizer, hugging_face_logits
from tasks.examine.metrics import Metrics
from tasks.examine.plain_text import control_windows, long_windows, text_windows
from tasks.examine.positions import position_metrics
from tasks.examine.protocol import Protocol, sample_questions
from tasks.examine.rotary import rotary_metrics
from tasks.examine.sequences import Forced, forced_sequences
from tests.examine_subjects import build_folders, edit_json

pytestmark = pytest.mark.real

PROTOCOL = Protocol(bootstrap_samples=500, control_windows=2)
GROWTH_LIMIT, TABLE_LIMIT, CONTROL_LIMIT = 2.0, 1e-3, 1e-6


@dataclass(frozen=True)
class Bench:
    """Variants of the demo checkpoint, and of a copy whose RoPE base is 9000, not 10000."""

    checkpoint: Path
    sound: dict[str, Path]
    turned: dict[str, Path]
    sequences: dict[Corpus, list[Forced]]

    def rows(self, folder: Path) -> pd.DataFrame:
        reference, engine = Engine(self.sound["fp32"]), Engine(folder)
        return pd.concat(
            compare_with_reference(reference, engine, forced, lambda _: None, corpus=corpus)
            for corpus, forced in self.sequences.items()
        )

    def control(self, folder: Path, corpus: Corpus) -> float:
        """Compare a FP32 graph with Hugging Face, as the reference's examination does."""
        engine, sequences = Engine(folder), self.sequences[corpus]
        truth = hugging_face_logits(
            self.checkpoint, ((forced.tokens, forced.start) for forced in sequences)
        )
        frames = []
        for forced, logits in zip(sequences, truth, strict=True):
            own = engine.logits(forced.tokens, start=forced.start)
            frames.append(token_frame(forced, distances([logits], own, forced.next_tokens)))
        return number(mean_kld(pd.concat(frames), PROTOCOL, corpus=corpus))


def number(measurement: Measurement) -> float:
    assert measurement.value is not None, measurement.method
    return measurement.value


def growth(rows: pd.DataFrame) -> tuple[float, float]:
    metrics, _, _ = position_metrics(rows, PROTOCOL)
    interval = metrics["lengths.kld_growth"].ci95
    assert interval is not None
    return interval


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    demo_checkpoint: Path,
    demo_questions: Path,
    stock: dict[str, Path],
) -> Bench:
    scratch = tmp_path_factory.mktemp("text")
    turned = scratch / "turned"
    shutil.copytree(demo_checkpoint, turned)
    edit_json(
        turned / "config.json", lambda config: config["rope_parameters"].update(rope_theta=9000.0)
    )
    jobs = {"fp32": "fp32", "int8": "int8", "int4": "int4"}
    tokenizer = CheckpointTokenizer(demo_checkpoint)
    asked = [question for question in load_questions(demo_questions) if question.answer]
    room = {"context_length": 4096}
    return Bench(
        demo_checkpoint,
        {name: stock[name] for name in jobs},
        build_folders(turned, scratch / "of-turned", **jobs),
        {
            QUESTIONS: forced_sequences(sample_questions(asked, 12, 0), tokenizer, {}, **room),
            TEXT: text_windows(tokenizer, PROTOCOL.text, **room),
            LONG: long_windows(tokenizer, PROTOCOL.text, **room),
            CONTROL: control_windows(tokenizer, PROTOCOL, **room),
        },
    )


@pytest.fixture(scope="module")
def sound_rows(bench: Bench) -> pd.DataFrame:
    return bench.rows(bench.sound["int8"])


@pytest.fixture(scope="module")
def turned_rows(bench: Bench) -> pd.DataFrame:
    return bench.rows(bench.turned["int8"])


def text(rows: pd.DataFrame) -> Metrics:
    return fidelity_metrics(rows, PROTOCOL, corpus=TEXT)


def test_sound_variant_is_level_and_near_on_plain_text(sound_rows: pd.DataFrame) -> None:
    metrics = text(sound_rows)
    assert tuple(metrics) == TEXT_METRIC_NAMES
    assert number(metrics["text.kld_mean"]) < 0.005
    assert "bootstrap over 32 documents" in metrics["text.kld_mean"].method
    assert growth(sound_rows)[1] < GROWTH_LIMIT


def test_wrong_rope_base_is_hidden_from_short_prompts_and_shows_deep_in_long_ones(
    turned_rows: pd.DataFrame,
) -> None:
    fidelity = fidelity_metrics(turned_rows, PROTOCOL)
    assert number(fidelity["fidelity.kld_mean"]) < 0.005
    assert number(text(turned_rows)["text.kld_mean"]) < 0.01
    assert growth(turned_rows)[0] > GROWTH_LIMIT
    _, buckets, notes = position_metrics(turned_rows, PROTOCOL)
    assert "what the same tokens lose in a short window" in notes[0]
    assert buckets["bucket_end"].iloc[-1] == 2048


def test_wrong_rope_base_shows_in_the_tables_whatever_the_precision(bench: Bench) -> None:
    def difference(folder: Path) -> float:
        return number(rotary_metrics(folder, bench.sound["fp32"])["build.rotary_difference"])

    assert {difference(folder) for folder in bench.sound.values()} == {0.0}
    assert min(difference(folder) for folder in bench.turned.values()) > 1000 * TABLE_LIMIT


def test_conversion_with_a_wrong_rope_base_is_caught_by_the_control_on_plain_text(
    bench: Bench,
) -> None:
    assert bench.control(bench.sound["fp32"], CONTROL) < 1e-3 * CONTROL_LIMIT
    assert bench.control(bench.turned["fp32"], CONTROL) > 1000 * CONTROL_LIMIT
    assert bench.control(bench.turned["fp32"], QUESTIONS) < 10 * CONTROL_LIMIT
