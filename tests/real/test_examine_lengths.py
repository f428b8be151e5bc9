"""Questions in filler, on the demo checkpoint: INT8 finds what FP32 finds, damaged models do not.

Half the RoPE base leaves 99.8 % of its plain answers right: this is the suite that sees it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.questions import is_right, load_questions
from tasks.core.records import Measurement, Question
from tasks.examine.answers import answer_questions
from tasks.examine.generation import Engine
from tasks.examine.hugging_face import CheckpointTokenizer
from tasks.examine.lengths import Asking, ask_reference, ask_variant, length_metrics
from tasks.examine.protocol import LengthPlan, Protocol, sample_questions
from tasks.examine.sequences import answer_limits
from tests.examine_subjects import build_folders, edit_json, with_noise

pytestmark = pytest.mark.real

PROTOCOL = Protocol(length=LengthPlan(questions=72, prompt_tokens=(128, 256, 512)))
INT8_MARGIN = -0.08
HALF_BASE = {"rope_theta": 5000.0}


@dataclass(frozen=True)
class Bench:
    folders: dict[str, Path]
    questions: list[Question]
    tokenizer: CheckpointTokenizer
    limits: dict[str, int]

    def asking(self, name: str) -> Asking:
        engine = Engine(self.folders[name])
        answers = answer_questions(engine, self.questions, self.limits, lambda line: None)
        unfilled = {answer.question_id: answer.text for answer in answers}
        return Asking(engine, self.tokenizer, unfilled, self.limits, PROTOCOL, lambda line: None)


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    demo_checkpoint: Path,
    demo_questions: Path,
    stock: dict[str, Path],
) -> Bench:
    scratch = tmp_path_factory.mktemp("lengths")
    noisy = with_noise(demo_checkpoint, scratch / "noisy", 0.3)
    turned = shutil.copytree(demo_checkpoint, scratch / "turned")
    edit_json(turned / "config.json", lambda config: config["rope_parameters"].update(HALF_BASE))
    folders = {
        **stock,
        **build_folders(noisy, scratch, damaged="int8"),
        **build_folders(turned, scratch, half_base="int8"),
    }
    questions = sample_questions(load_questions(demo_questions), 200, 0)
    tokenizer = CheckpointTokenizer(demo_checkpoint)
    return Bench(folders, questions, tokenizer, answer_limits(questions, tokenizer, PROTOCOL))


@pytest.fixture(scope="module")
def reference(bench: Bench) -> pd.DataFrame:
    asking = bench.asking("fp32")
    expected = {question.id: question.expectation for question in bench.questions}
    right = [one for one, text in asking.unfilled.items() if is_right(expected[one], text)]
    rows, _ = ask_reference(asking, bench.questions, right)
    return rows


def found_delta(bench: Bench, reference: pd.DataFrame, name: str) -> Measurement:
    rows = ask_variant(bench.asking(name), bench.questions, reference)
    return length_metrics(reference, rows, PROTOCOL)["lengths.found_delta"]


def test_reference_finds_its_questions_in_filler(bench: Bench, reference: pd.DataFrame) -> None:
    compared = reference[reference["compared"]]
    assert set(compared["prompt_tokens_wanted"]) >= {128}
    assert len(compared) == 72
    assert compared["right"].mean() > 0.75
    assert (abs(compared["prompt_tokens"] - compared["prompt_tokens_wanted"]) <= 12).all()


def test_same_model_again_finds_the_same(bench: Bench, reference: pd.DataFrame) -> None:
    change = found_delta(bench, reference, "fp32")
    assert change.value == 0
    assert change.ci95 is not None
    assert change.ci95[0] > -0.06


def test_int8_is_surely_within_its_margin(bench: Bench, reference: pd.DataFrame) -> None:
    change = found_delta(bench, reference, "int8")
    assert change.ci95 is not None
    assert change.ci95[0] >= INT8_MARGIN


def test_noise_in_the_weights_is_surely_beyond_it(bench: Bench, reference: pd.DataFrame) -> None:
    change = found_delta(bench, reference, "damaged")
    assert change.ci95 is not None
    assert change.ci95[1] < INT8_MARGIN


def test_wrong_rope_base_that_plain_questions_do_not_show_is_not_within_it(
    bench: Bench, reference: pd.DataFrame
) -> None:
    plain = bench.asking("half_base").unfilled
    sound = bench.asking("fp32").unfilled
    assert sum(plain[one] != sound[one] for one in sound) <= 2
    change = found_delta(bench, reference, "half_base")
    assert change.ci95 is not None
    assert change.ci95[0] < INT8_MARGIN
