"""Prompts that bait: a sound variant does as its reference does, planted faults do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.records import GateVerdict, Precision
from tasks.examine.baits import METRIC_NAMES, ask_baits, bait_metrics
from tasks.examine.generation import Engine
from tasks.examine.metrics import Metrics
from tasks.examine.protocol import Protocol
from tasks.judge.judge import judge_gate
from tasks.judge.policy import load_policy
from tests.examine_subjects import changed_copy, edit_json

pytestmark = pytest.mark.real

PARAMETERS = 900_000


def asked(folder: Path) -> pd.DataFrame:
    return ask_baits(Engine(folder), Protocol().bait_tokens, lambda _: None)


def not_passed(metrics: Metrics) -> set[str]:
    """Give the default gates on baits that do not pass."""
    gates = [gate for gate in load_policy().enabled_gates if gate.metric in METRIC_NAMES]
    assert {gate.metric for gate in gates} == set(METRIC_NAMES)
    return {
        gate.name
        for gate in gates
        if metrics[gate.metric].applies
        and judge_gate(
            gate, metrics[gate.metric], gate.limit_for(Precision.INT8, PARAMETERS)
        ).verdict
        is not GateVerdict.PASS
    }


@pytest.fixture(scope="module")
def reference(stock: dict[str, Path]) -> pd.DataFrame:
    return asked(stock["fp32"])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_sound_variant_does_as_its_reference_does(
    stock: dict[str, Path], reference: pd.DataFrame, precision: str
) -> None:
    metrics, _ = bait_metrics(reference, asked(stock[precision]))
    assert not_passed(metrics) == set()


def wrong_eos(folder: Path) -> None:
    edit_json(folder / "genai_config.json", lambda config: config["model"].update(eos_token_id=5))


def other_template(folder: Path) -> None:
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(bare)


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        (wrong_eos, {"bait_stopped", "empty_turn"}),
        (other_template, {"bait_kept_refusals", "empty_turn"}),
    ],
)
def test_fault_in_the_folder_is_caught_by_its_gates(
    stock: dict[str, Path],
    reference: pd.DataFrame,
    tmp_path: Path,
    fault: Callable[[Path], None],
    caught_by: set[str],
) -> None:
    faulty = changed_copy(stock["int8"], tmp_path / "faulty", fault)
    metrics, _ = bait_metrics(reference, asked(faulty))
    assert caught_by <= not_passed(metrics)
