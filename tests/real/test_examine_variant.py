"""The examination on the demo checkpoint: sound variants pass through, planted faults show."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.errors import ToolFailed, VariantUnusable
from tasks.core.questions import load_questions
from tasks.core.records import Checkpoint, Evidence, Precision, Question, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.protocol import Protocol
from tasks.examine.reference import examine_reference
from tasks.examine.variant import examine_variant
from tests.examine_subjects import (
    admitted,
    build_folders,
    changed_copy,
    edit_json,
    publish,
    with_noise,
)

pytestmark = pytest.mark.real

PROTOCOL = Protocol(max_questions=150, kld_max_questions=60, bootstrap_samples=500)


@dataclass(frozen=True)
class Bench:
    """The demo checkpoint, its reference, what that answers, and built folders by name."""

    checkpoint: Checkpoint
    questions: list[Question]
    settings: Settings
    folders: dict[str, Path]
    scratch: Path
    reference: Variant
    yardstick: Evidence

    def variant(self, folder: Path, precision: Precision) -> Variant:
        return publish(folder, precision, self.checkpoint, self.settings)

    def examine(
        self, folder: Path, precision: Precision = Precision.INT8, protocol: Protocol = PROTOCOL
    ) -> Evidence:
        return examine_variant(
            self.checkpoint,
            self.reference,
            self.yardstick,
            self.variant(folder, precision),
            self.questions,
            protocol=protocol,
            settings=self.settings,
        )

    def faulty(self, change: Callable[[Path], None]) -> Evidence:
        """Examine the INT8 folder with a fault planted in it."""
        target = self.scratch / f"faulty-{change.__name__}"
        return self.examine(changed_copy(self.folders["int8"], target, change))

    def frame(self, evidence: Evidence, name: str) -> pd.DataFrame:
        assert evidence.frames is not None
        return pd.read_parquet(Store(self.settings.store).path(evidence.frames) / name)


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Path, demo_questions: Path
) -> Bench:
    scratch = tmp_path_factory.mktemp("examine")
    checkpoint = admitted(demo_checkpoint)
    settings = Settings(home=scratch / "home")
    questions = load_questions(demo_questions)
    folders = build_folders(
        demo_checkpoint, scratch, fp32="fp32", int8="int8", int4="int4", fp16="fp16"
    )
    reference = publish(folders["fp32"], Precision.FP32, checkpoint, settings)
    yardstick = examine_reference(
        checkpoint, reference, questions, protocol=PROTOCOL, settings=settings
    )
    return Bench(checkpoint, questions, settings, folders, scratch, reference, yardstick)


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
    assert "64 of 150 questions sampled, at most 64 tokens of each" in method
    assert value(bench.yardstick, "reference.right") > 0.9
    assert value(bench.yardstick, "reference.stopped") == 1
    assert len(bench.frame(bench.yardstick, "answers.parquet")) == 150


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
    tokens = bench.frame(sound, "kld.parquet")
    assert tokens["kld"].mean() == pytest.approx(value(sound, "fidelity.kld_mean"))
    assert tokens["question_id"].nunique() == 60
    assert len(bench.frame(sound, "answers.parquet")) == 150
    assert bench.frame(sound, "categories.parquet")["n"].sum() == 150


def test_same_variant_examined_again_gives_the_same_evidence(bench: Bench, sound: Evidence) -> None:
    again = bench.examine(bench.folders["int8"])
    assert again.metrics == sound.metrics
    assert again.notes == sound.notes
    assert again.frames == sound.frames


def test_noise_in_the_weights_raises_divergence_and_flips(bench: Bench, sound: Evidence) -> None:
    noisy = with_noise(bench.checkpoint.path, bench.scratch / "noisy", 0.3)
    damaged = bench.examine(build_folders(noisy, bench.scratch / "of-noisy", int8="int8")["int8"])
    assert value(damaged, "fidelity.kld_mean") > 100 * value(sound, "fidelity.kld_mean")
    assert value(damaged, "answers.flip_rate") > value(sound, "answers.flip_rate") + 0.1
    assert value(damaged, "template.text_mismatches") == 0
    assert any("which is right; the variant says" in note for note in damaged.notes)


def test_fp16_graph_for_the_cpu_fails_in_decoding_and_goes_no_further(bench: Bench) -> None:
    found = bench.examine(bench.folders["fp16"], Precision.FP16)
    assert value(found, "decode.failed") == 1
    for name in ("decode.kld_mean", "fidelity.kld_mean", "answers.right"):
        assert found.metrics[name].value is None
    assert "cannot decode" in found.metrics["answers.right"].method
    assert any(note.startswith("cannot decode: decoding failed") for note in found.notes)


def test_another_template_in_the_folder_is_seen_and_breaks_answers(bench: Bench) -> None:
    def phi_template(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
        )

    found = bench.faulty(phi_template)
    assert value(found, "template.text_mismatches") > 100
    assert value(found, "template.token_mismatches") > 100
    assert "conversation 'single' is rendered unlike" in found.notes[0]
    assert value(found, "answers.right") < 0.5


def test_wrong_eos_is_seen_in_the_config_and_in_answers_that_never_stop(bench: Bench) -> None:
    def wrong_eos(folder: Path) -> None:
        edit_json(
            folder / "genai_config.json", lambda config: config["model"].update(eos_token_id=5)
        )

    found = bench.faulty(wrong_eos)
    assert value(found, "template.eos_missing") == 1
    assert value(found, "answers.stopped_ratio") < 0.2
    assert "answers run to the length limit" in found.notes[0]


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
