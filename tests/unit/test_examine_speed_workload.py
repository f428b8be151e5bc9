"""What is timed fits the context and the budget; what does not is named, and chat stays."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.examine.protocol import Scenario, TimingPlan
from tasks.examine.speed.workload import (
    affordable_lengths,
    expected_s,
    fits_budget,
    headline_of,
    lengths_of,
    prompt_of,
    scenarios_of,
)

PLAN = TimingPlan()


def names(scenarios: list[Scenario]) -> list[str]:
    return [scenario.name for scenario in scenarios]


@pytest.mark.parametrize(
    ("context", "fitting", "unfit"),
    [
        (4096, ["chat", "short", "rag", "long"], []),
        (512, ["chat", "short", "long"], ["rag"]),
        (256, ["chat", "short", "long"], ["rag"]),
        (200, ["short"], ["chat", "rag", "long"]),
    ],
)
def test_scenarios_without_room_are_left_out(
    context: int, fitting: list[str], unfit: list[str]
) -> None:
    found = scenarios_of(PLAN, context)
    assert (sorted(names(found[0])), names(found[1])) == (sorted(fitting), unfit)
    assert names(found[0])[0] == headline_of(found[0])


def test_long_fills_three_quarters_of_the_context_up_to_its_limit() -> None:
    longest = [scenarios_of(PLAN, context)[0][-1] for context in (2048, 131_072)]
    assert [scenario.prompt_tokens for scenario in longest] == [1536, 2048]
    assert "long" not in names(scenarios_of(TimingPlan(long_tokens=0), 4096)[0])


def test_headline_is_chat_wherever_it_is_timed() -> None:
    short, chat = Scenario(name="short", prompt_tokens=8, new_tokens=8), PLAN.scenarios[1]
    assert headline_of([short, chat, *PLAN.scenarios]) == "chat"
    assert headline_of([short]) == "short"


def test_lengths_end_below_the_context() -> None:
    assert lengths_of(PLAN, 512) == [16, 64, 128, 256]


def test_prompts_are_tokens_and_the_same_every_time() -> None:
    assert prompt_of(64, 100, 0) == prompt_of(64, 100, 0) != prompt_of(64, 100, 1)
    assert set(prompt_of(1000, 3, 0)) == {0, 1, 2}


def run(ttft_s: float, decode_s: float) -> dict[str, Any]:
    return {"n_in": 100, "n_out": 11, "ttft_s": ttft_s, "decode_s": decode_s}


def test_forecast_scales_reading_and_writing_apart() -> None:
    assert expected_s(run(2.0, 1.0), 300, 21) == pytest.approx(3 * 2.0 + 20 * 0.1)


def test_scenario_fits_while_the_least_rounds_do() -> None:
    plan = TimingPlan(budget_s=100.0, least_launches=2, least_rounds=3)
    assert fits_budget(9.9, plan)
    assert not fits_budget(10.1, plan)


def test_lengths_that_are_too_dear_go_longest_first_but_a_curve_stays() -> None:
    lengths, plan = [16, 64, 128, 256, 512, 1024], TimingPlan(budget_s=100.0, launches=2)
    assert affordable_lengths(lengths, [run(0.01, 0)], 3, plan) == lengths
    dearer = affordable_lengths(lengths, [run(0.1, 0)], 3, plan)
    assert dearer == lengths[:5]
    assert affordable_lengths(lengths, [run(60.0, 0)], 3, plan) == lengths[:4]
