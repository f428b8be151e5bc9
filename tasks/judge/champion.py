"""What is known of the champion in place, and whether a variant can be held against it.

Numbers that others measured; nothing here knows where they are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.figures import figure
from tasks.core.records import Conditions, Digest, Measurement, Precision, Record, Variant
from tasks.judge.case import interval_of, why_unusable
from tasks.judge.policy import Gate


class ChampionMetrics(Record):
    """The champion of a name, and what its own run measured of it.

    Attributes:
        conditions: what its metrics were measured with; None when its run does not say.
        metrics: by name.
    """

    model_id: str
    variant: Digest
    precision: Precision
    run_id: str
    conditions: Conditions | None
    metrics: dict[str, Measurement]


class NoChampion(Record):
    """Why there is nothing to hold a variant against."""

    reason: str = "there is no champion yet"


@dataclass(frozen=True)
class Limit:
    """A limit, and what it was made from where that is not the policy alone."""

    value: float
    origin: str = ""


def limit_from_champion(
    gate: Gate,
    variant: Variant,
    champion: ChampionMetrics | NoChampion,
    conditions: Conditions | None,
) -> Limit | str:
    """Make a gate's limit from the champion's value, or say why there is none to make it from.

    Args:
        gate: that asks for the champion's value.
        variant: that is judged.
        champion: of the same name.
        conditions: what the variant's metrics were measured with; None when that is not known.
    """
    if isinstance(champion, NoChampion):
        return champion.reason
    # A margin is about what users get, whichever precision gave it to them until now.
    if variant.precision is not champion.precision and not gate.champion_margin:
        label = variant.precision.value.upper()
        return f"there is no champion of {label}: {champion.model_id} is in place"
    if variant.digest == champion.variant:
        return f"it is {champion.model_id} itself"
    if gate.champion_limit:
        return Limit(gate.champion_limit[variant.precision])
    if other := _other_conditions(champion, conditions):
        return f"{champion.model_id} was examined {other}"
    measurement = champion.metrics.get(gate.metric)
    if measurement is None or why_unusable(measurement):
        return f"{gate.metric} of {champion.model_id}: {why_unusable(measurement)}"
    interval = interval_of(measurement)
    return Limit(
        gate.limit_from(variant.precision, interval),
        f"{champion.model_id} reaches {figure(interval[1 if gate.operator == '<=' else 0])}",
    )


def _other_conditions(champion: ChampionMetrics, conditions: Conditions | None) -> str:
    """Say how the champion was examined otherwise than the variant; empty when it was not."""
    before = champion.conditions
    if before is None or conditions is None:
        return "under conditions that its run does not name"
    if before.questions != conditions.questions:
        return "on other questions"
    if before.profile is not conditions.profile:
        return f"with the profile {before.profile.value}"
    return "" if before == conditions else "by another version of the examinations"
