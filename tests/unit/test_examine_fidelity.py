"""Fidelity metrics summarise token rows over whole questions or documents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import pandas as pd
import pytest

from tasks.examine.divergence import TokenDistances
from tasks.examine.fidelity import (
    METRIC_NAMES,
    QUESTIONS,
    TEXT,
    TEXT_METRIC_NAMES,
    Corpus,
    compare_with_reference,
    fidelity_metrics,
    token_frame,
)
from tasks.examine.generation import Engine
from tasks.examine.protocol import Protocol
from tasks.examine.sequences import Forced, Source

PROTOCOL = Protocol(bootstrap_samples=300)


def rows(
    *, agree: float = 1.0, top: float = 0.9, extra_nll: float = 0.0, corpus: Corpus = QUESTIONS
) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frames = []
    for number in range(40):
        forced = Forced(f"q{number}", "c", prompt=[1, 2, 3], answer=list(range(10)))
        nll = rng.random(10)
        found = TokenDistances(
            kld=rng.exponential(0.01, 10) * (1 + number % 4),
            nll_p=nll,
            nll_q=nll + extra_nll,
            dp=np.exp(-nll - extra_nll) - np.exp(-nll),
            same_top=rng.random(10) < agree,
            top_p=np.full(10, top),
        )
        frames.append(token_frame(forced, found, corpus=corpus))
    return pd.concat(frames, ignore_index=True)


def test_every_metric_lies_in_its_interval() -> None:
    metrics = fidelity_metrics(rows(agree=0.9, extra_nll=0.1), PROTOCOL)
    assert tuple(metrics) == METRIC_NAMES
    for name, found in metrics.items():
        low, high = found.ci95 or (-math.inf, math.inf)
        assert found.value is not None
        assert low - 1e-9 <= found.value <= high + 1e-9, name
        assert found.n == 400


def test_perplexity_ratio_is_that_of_the_same_tokens() -> None:
    found = fidelity_metrics(rows(extra_nll=0.1), PROTOCOL)["fidelity.ppl_ratio"]
    assert found.value == pytest.approx(math.exp(0.1))


def test_probability_differences_are_those_of_the_tokens() -> None:
    table = rows(extra_nll=0.1)
    metrics = fidelity_metrics(table, PROTOCOL)
    assert metrics["fidelity.dp_mean"].value == pytest.approx(table["dp"].mean())
    assert metrics["fidelity.dp_rms"].value == pytest.approx(math.sqrt((table["dp"] ** 2).mean()))
    low, high = metrics["fidelity.dp_mean"].ci95 or (0, 0)
    assert low < high < 0


def test_gains_hide_losses_in_the_mean_difference_and_not_in_its_root_mean_square() -> None:
    table = rows()
    table["dp"] = np.where(np.arange(len(table)) % 2, 0.3, -0.3)
    metrics = fidelity_metrics(table, PROTOCOL)
    assert metrics["fidelity.dp_mean"].value == pytest.approx(0)
    assert metrics["fidelity.dp_rms"].value == pytest.approx(0.3)


def test_one_lost_token_in_a_thousand_shows_in_the_last_quantile_only() -> None:
    table = rows()
    table.loc[0, "kld"] = 9.0
    metrics = fidelity_metrics(table, PROTOCOL)
    assert (metrics["fidelity.kld_p99"].value or 9) < 0.3
    assert (metrics["fidelity.kld_p999"].value or 0) > 3


def test_two_looks_widen_the_intervals_on_questions_and_say_so() -> None:
    once = fidelity_metrics(rows(agree=0.9), PROTOCOL)
    twice = fidelity_metrics(rows(agree=0.9), PROTOCOL.model_copy(update={"level": 0.975}))
    for name in set(METRIC_NAMES) - {"fidelity.kld_max"}:
        narrow, wide = once[name].ci95, twice[name].ci95
        assert narrow is not None
        assert wide is not None
        assert wide[0] <= narrow[0] <= narrow[1] <= wide[1], name
        assert "97.5 % interval" in twice[name].method
        assert "interval" not in once[name].method
    assert once["fidelity.kld_mean"].ci95 != twice["fidelity.kld_mean"].ci95


def test_text_is_summarised_over_documents_and_looked_at_once() -> None:
    metrics = fidelity_metrics(
        rows(corpus=TEXT), PROTOCOL.model_copy(update={"level": 0.975}), corpus=TEXT
    )
    assert tuple(metrics) == TEXT_METRIC_NAMES
    assert "tokens of plain text" in metrics["text.kld_mean"].method
    assert metrics["text.kld_mean"].method.endswith("bootstrap over 40 documents")


def test_rows_of_another_corpus_are_passed_over() -> None:
    text = rows(corpus=TEXT).assign(kld=9.0)
    both = fidelity_metrics(pd.concat([rows(), text]), PROTOCOL)
    assert both == fidelity_metrics(rows(), PROTOCOL)
    none = fidelity_metrics(text, PROTOCOL)
    assert {found.value for found in none.values()} == {None}
    assert "there are no assistant tokens" in none["fidelity.kld_mean"].method
    assert all(found.is_settled() for found in none.values())


class Tilted:
    """Gives logits that prefer one token by as much as is said."""

    def __init__(self, tilt: float) -> None:
        self.tilt = tilt

    def logits(self, tokens: list[int], *, start: int = 0) -> Iterator[np.ndarray]:
        for _ in tokens[start:]:
            yield np.array([[self.tilt, 0.0, 0.0, 0.0]], np.float32)


def test_sequences_become_rows_with_their_corpus_positions_and_origins() -> None:
    asked = [Forced("a", "c", [1, 2], [3, 0]), Forced("b", "c", [1], [2, 2, 2])]
    said: list[str] = []
    table = compare_with_reference(
        cast(Engine, Tilted(0.0)), cast(Engine, Tilted(1.0)), asked, said.append, corpus=TEXT
    )
    assert table["corpus"].unique().tolist() == ["text"]
    assert table["question_id"].tolist() == ["a", "a", "b", "b", "b"]
    assert table["position"].tolist() == [2, 3, 1, 2, 3]
    assert table["offset"].tolist() == [0, 1, 0, 1, 2]
    assert (table["dp"] > 0).tolist() == [False, True, False, False, False]
    assert said == ["comparing tokens of plain text 1/2", "comparing tokens of plain text 2/2"]


def test_full_agreement_keeps_an_interval() -> None:
    found = fidelity_metrics(rows(), PROTOCOL)["fidelity.top1_decisive"]
    assert found.value == 1
    assert found.ci95 is not None
    assert 0.98 < found.ci95[0] < 1


def test_without_decisive_tokens_their_agreement_is_not_measured() -> None:
    found = fidelity_metrics(rows(top=0.3), PROTOCOL)["fidelity.top1_decisive"]
    assert found.value is None
    assert "no tokens" in found.method
    assert found.is_settled()


def test_one_question_gives_no_interval_and_so_no_value() -> None:
    one = rows(agree=0.9).query("question_id == 'q0'")
    metrics = fidelity_metrics(one, PROTOCOL)
    for name in set(METRIC_NAMES) - {"fidelity.kld_max"}:
        assert metrics[name].value is None, name
        assert metrics[name].n == len(one)
        assert metrics[name].method.startswith("one question gives no interval")
        assert metrics[name].is_settled(), name


def test_tokens_put_together_from_documents_know_where_they_are_from() -> None:
    sources = (Source("x", 10, 2), Source("y", 0, 3))
    forced = Forced("w", "text", prompt=[5], answer=[6, 7, 8, 9], sources=sources)
    names, places = forced.origins()
    assert names == ["x", "y", "y", "y"]
    assert places.tolist() == [11, 0, 1, 2]
    assert forced.cut(2).origins()[0] == ["x", "y"]


def test_forced_answer_is_predicted_from_the_last_prompt_token_on() -> None:
    forced = Forced("q", "c", prompt=[5, 6, 7], answer=[8, 9])
    assert forced.tokens == [5, 6, 7, 8]
    assert forced.start == 2
    assert forced.next_tokens.tolist() == [8, 9]
    assert forced.cut(1).tokens == [5, 6, 7]
