"""Fidelity metrics summarise token rows over whole questions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from tasks.examine.divergence import TokenDistances
from tasks.examine.fidelity import METRIC_NAMES, fidelity_metrics, token_frame
from tasks.examine.protocol import Protocol
from tasks.examine.sequences import Forced

PROTOCOL = Protocol(bootstrap_samples=300)


def rows(*, agree: float = 1.0, top: float = 0.9, extra_nll: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frames = []
    for number in range(40):
        forced = Forced(f"q{number}", "c", prompt=[1, 2, 3], answer=list(range(10)))
        nll = rng.random(10)
        found = TokenDistances(
            kld=rng.exponential(0.01, 10) * (1 + number % 4),
            nll_p=nll,
            nll_q=nll + extra_nll,
            same_top=rng.random(10) < agree,
            top_p=np.full(10, top),
        )
        frames.append(token_frame(forced, found))
    return pd.concat(frames)


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


def test_full_agreement_keeps_an_interval() -> None:
    found = fidelity_metrics(rows(), PROTOCOL)["fidelity.top1_decisive"]
    assert found.value == 1
    assert found.ci95 is not None
    assert 0.98 < found.ci95[0] < 1


def test_without_decisive_tokens_their_agreement_is_not_measured() -> None:
    found = fidelity_metrics(rows(top=0.3), PROTOCOL)["fidelity.top1_decisive"]
    assert found.value is None
    assert "no tokens" in found.method


def test_one_question_gives_no_interval_and_so_no_value() -> None:
    one = rows(agree=0.9).query("question_id == 'q0'")
    metrics = fidelity_metrics(one, PROTOCOL)
    for name in set(METRIC_NAMES) - {"fidelity.kld_max"}:
        assert metrics[name].value is None, name
        assert metrics[name].n == len(one)
        assert metrics[name].method.startswith("one question gives no interval")


def test_forced_answer_is_predicted_from_the_last_prompt_token_on() -> None:
    forced = Forced("q", "c", prompt=[5, 6, 7], answer=[8, 9])
    assert forced.tokens == [5, 6, 7, 8]
    assert forced.start == 2
    assert forced.next_tokens.tolist() == [8, 9]
    assert forced.cut(1).tokens == [5, 6, 7]
