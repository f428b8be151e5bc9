"""The champion that answers under a name now, as a release needs it: what it is, what it reached.

Reads the ledger and the run it names; what cannot be read stops no release, it is said instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.errors import EnvironmentUnfit, InputError
from tasks.core.records import Variant
from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion, champion_of
from tasks.judge.champion import ChampionMetrics, NoChampion
from tasks.report.load import Run, load_run


@dataclass(frozen=True)
class ChampionInPlace:
    """The champion of a name before a release.

    Attributes:
        metrics: what its own run measured of it, or why there is nothing to compare with.
        variant: what it was built as, to be timed beside the new ones; None where its run does not
            say.
    """

    metrics: ChampionMetrics | NoChampion
    variant: Variant | None = None


def champion_in_place(name: str, settings: Settings) -> ChampionInPlace:
    """Look up the champion of a name, its run and its variant."""
    try:
        champion = champion_of(settings, name)
    except (InputError, EnvironmentUnfit) as problem:
        return _none(problem.message)
    if champion is None:
        return ChampionInPlace(NoChampion())
    try:
        run = load_run(settings.runs / champion.run_id)
    except InputError as problem:
        return _none(f"the evidence of {champion.model_id} cannot be used: {problem.message}")
    variant = next((v for v in run.release.variants if v.digest == champion.variant), None)
    if variant is None:
        return _none(f"run {champion.run_id} knows nothing of {champion.model_id}")
    return ChampionInPlace(_metrics(champion, run), variant)


def _metrics(champion: Champion, run: Run) -> ChampionMetrics:
    return ChampionMetrics(
        model_id=champion.model_id,
        variant=champion.variant,
        precision=champion.precision,
        run_id=champion.run_id,
        conditions=run.release.conditions,
        metrics=run.metrics.get(champion.variant, {}),
    )


def _none(reason: str) -> ChampionInPlace:
    return ChampionInPlace(NoChampion(reason=reason))
