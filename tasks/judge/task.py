"""The Prefect face of the verdict. Never cached, never retried: it is arithmetic on evidence."""

from __future__ import annotations

from prefect import task

from tasks.core.progress import step
from tasks.core.records import Conditions, Judgement, Measurement, Variant
from tasks.core.task import UNCACHED
from tasks.judge import judge
from tasks.judge.champion import ChampionMetrics, NoChampion
from tasks.judge.policy import Policy


@task(name="judge", task_run_name="judge", **UNCACHED)
def judge_variants(
    built: list[Variant],
    metrics: dict[str, dict[str, Measurement]],
    policy: Policy,
    *,
    parameters: int,
    failures: dict[str, str],
    most_questions: int,
    conditions: Conditions,
    champion: ChampionMetrics | NoChampion,
) -> Judgement:
    """Hold every measurement against its limit and pick the smallest variant that passes."""
    with step("judge") as say:
        judgement = judge.judge_variants(
            built,
            metrics,
            policy,
            parameters=parameters,
            failures=failures,
            most_questions=most_questions,
            conditions=conditions,
            champion=champion,
        )
        say(judgement.reason)
    return judgement
