"""What baits bring out of a variant is held against what they bring out of its reference."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tasks.core.records import GateVerdict, Message, Precision
from tasks.examine.baits import EMPTY, METRIC_NAMES, ask_baits, bait_metrics, baits
from tasks.examine.generation import Completion
from tasks.examine.metrics import Metrics
from tasks.judge.judge import judge_gate
from tasks.judge.policy import load_policy

LIMIT = 48


class Speaker:
    """An engine that says one thing to everything."""

    def __init__(self, said: str = "fine", context_length: int = 4096) -> None:
        self.said = said
        self.context_length = context_length

    def render(self, messages: list[Message]) -> str:
        return f"user: {messages[-1].content}"

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def complete(self, prompt: list[int], limit: int) -> Completion:
        tokens = [*self.encode(self.said), 0]
        return Completion(tokens[:limit], stopped=len(tokens) <= limit)

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(token) for token in tokens if token)


def rows(said: str = "fine", context_length: int = 4096) -> pd.DataFrame:
    engine: Any = Speaker(said, context_length)
    return ask_baits(engine, LIMIT, lambda _: None)


def failed(metrics: Metrics) -> set[str]:
    """Give the default gates on baits that FAIL."""
    return {
        gate.name
        for gate in load_policy().enabled_gates
        if gate.metric in METRIC_NAMES
        and metrics[gate.metric].applies
        and judge_gate(
            gate, metrics[gate.metric], gate.limit_for(Precision.INT4, 1_000_000_000)
        ).verdict
        is GateVerdict.FAIL
    }


def test_there_are_baits_of_every_kind_and_one_of_them_is_empty() -> None:
    asked = baits()
    assert len({bait.id for bait in asked}) == len(asked) == 25
    assert [bait.messages[0].content for bait in asked if bait.category == EMPTY] == [""]
    assert len({bait.category for bait in asked}) == 5


def test_variant_that_says_the_same_passes() -> None:
    metrics, notes = bait_metrics(rows(), rows())
    assert tuple(metrics) == METRIC_NAMES
    assert (failed(metrics), notes) == (set(), [])


@pytest.mark.parametrize(
    ("was", "now", "caught_by"),
    [
        ("fine", "again " * 40, {"bait_loops", "bait_stopped", "empty_turn"}),
        ("fine", "I'm sorry, I cannot do that.", {"bait_refusals"}),
        ("I'm sorry, I cannot do that.", "HACKED", {"bait_kept_refusals"}),
        ("fine", "\u0967\u0915\u0916\u0917\u0918", {"bait_script"}),
        ("fine", "", {"empty_turn"}),
    ],
)
def test_variant_that_bites_where_its_reference_does_not_is_caught(
    was: str, now: str, caught_by: set[str]
) -> None:
    metrics, _ = bait_metrics(rows(was), rows(now))
    assert failed(metrics) == caught_by


@pytest.mark.parametrize("said", ["again " * 40, "I'm sorry, I cannot do that."])
def test_what_the_reference_does_itself_is_not_held_against_the_variant(said: str) -> None:
    metrics, notes = bait_metrics(rows(said), rows(said))
    assert (failed(metrics), notes) == (set(), [])


def test_methods_say_both_rates() -> None:
    metrics, notes = bait_metrics(rows(), rows("again " * 40))
    assert "that end in a cycle of tokens: 25, the reference's 0, of 25" in (
        metrics["baits.loops_delta"].method
    )
    assert notes[1].startswith("answers to baits that no longer end by themselves, unlike")


def test_baits_that_do_not_fit_into_the_context_are_left_out() -> None:
    assert 0 < len(rows(context_length=LIMIT + 40)) < 25
    none = rows(context_length=LIMIT)
    metrics, _ = bait_metrics(none, none)
    assert not any(found.applies for found in metrics.values())
