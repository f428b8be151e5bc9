"""Which runs are timed: scenarios and lengths that fit the context and the budget, and prompts.

Knows counts of tokens and what they took so far; nothing is timed here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.examine.protocol import CHAT, Scenario, TimingPlan

LONG = "long"
_LONG_SHARE, _LONG_NEW_TOKENS = (3, 4), 64

# a + b n + c n^2 through three lengths fits whatever was measured.
LEAST_LENGTHS = 4
# Runs of one length in a launch, the first of which warms up.
LENGTH_REPEATS = 3
_LENGTHS_SHARE = 0.2  # of the budget, at most


@dataclass(frozen=True)
class FolderFacts:
    """What a model folder's genai_config.json says about its runs.

    Attributes:
        max_length: tokens that the KV cache is made for unless somebody says otherwise.
        session_options: of the decoder, as written.
    """

    context_length: int
    vocabulary_size: int
    max_length: int
    session_options: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> FolderFacts:
        """Read them."""
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        model = config["model"]
        context = int(model["context_length"])
        return cls(
            context_length=context,
            vocabulary_size=int(model["vocab_size"]),
            max_length=min(context, int(config.get("search", {}).get("max_length", context))),
            session_options=dict(model["decoder"].get("session_options", {})),
        )


def scenarios_of(plan: TimingPlan, context: int) -> tuple[list[Scenario], list[Scenario]]:
    """Give the scenarios that fit a context, the headline first, and those that do not."""
    wanted = list(plan.scenarios)
    if plan.long_tokens:
        part, whole = _LONG_SHARE
        prompt = max(1, min(context * part // whole, plan.long_tokens))
        wanted.append(
            Scenario(name=LONG, prompt_tokens=prompt, new_tokens=min(_LONG_NEW_TOKENS, context))
        )
    fitting = [found for found in wanted if _length(found) <= context]
    headline = headline_of(fitting)
    fitting.sort(key=lambda found: (found.name != headline, _length(found)))
    return fitting, [found for found in wanted if _length(found) > context]


def headline_of(scenarios: Iterable[Scenario]) -> str:
    """Name the scenario that unnamed metrics are of: `chat`, or where there is none the longest."""
    by_length = sorted(scenarios, key=_length)
    names = [found.name for found in by_length]
    return CHAT.name if CHAT.name in names else names[-1] if names else ""


def lengths_of(plan: TimingPlan, context: int) -> list[int]:
    """Give the prompt lengths below a context, shortest first; each makes one new token."""
    return sorted({length for length in plan.lengths if length < context})


def prompt_of(tokens: int, vocabulary_size: int, seed: int) -> list[int]:
    """Draw token ids; what they say does not change how long they take."""
    draw = random.Random(f"{seed} {tokens}")  # noqa: S311  (a prompt, not a secret)
    return [draw.randrange(vocabulary_size) for _ in range(tokens)]


def expected_s(run: Mapping[str, float], prompt_tokens: int, new_tokens: int) -> float:
    """Forecast a run from another one of the same model; attention's square is not in it.

    Args:
        run: n_in, n_out, ttft_s and decode_s of a run.
        prompt_tokens: of the run that is forecast.
        new_tokens: likewise.
    """
    decode_s = run["decode_s"] / max(run["n_out"] - 1, 1)
    return run["ttft_s"] / run["n_in"] * prompt_tokens + decode_s * (new_tokens - 1)


def fits_budget(round_s: float, plan: TimingPlan) -> bool:
    """Tell whether the least number of rounds of so many seconds is within the budget."""
    rounds = plan.least_launches * (1 + plan.least_rounds)
    return round_s * rounds <= plan.budget_s * (1 - _LENGTHS_SHARE)


def affordable_lengths(
    lengths: Sequence[int], runs: Sequence[Mapping[str, float]], models: int, plan: TimingPlan
) -> list[int]:
    """Leave out the longest lengths until a fit's worth, or what the budget allows, is left.

    Args:
        lengths: shortest first.
        runs: one run of each model that is known so far.
        models: that are measured at these lengths.
        plan: for the budget and the number of launches.
    """
    kept = list(lengths)
    while len(kept) > LEAST_LENGTHS:
        once_s = sum(expected_s(run, length, 1) for run in runs for length in kept)
        all_s = once_s * models / len(runs) * LENGTH_REPEATS * plan.launches
        if all_s <= plan.budget_s * _LENGTHS_SHARE:
            break
        kept.pop()
    return kept


def _length(scenario: Scenario) -> int:
    return scenario.prompt_tokens + scenario.new_tokens
