"""A release knows the champion in place, or why there is nothing to hold a variant against."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.champion import champion_in_place
from tasks.core.records import Conditions, ExaminationProfile, Precision, Registration
from tasks.core.settings import Settings
from tasks.foundry.ledger import record_champion
from tasks.judge.champion import ChampionMetrics, NoChampion
from tests.golden.sample_release import INT4, INT8, exact, variant
from tests.sample_runs import write_run

RUN = "20261120T080000Z-demo-aaaaaaaa"
CONDITIONS = Conditions(questions="9" * 64, profile=ExaminationProfile.SMOKE, revision=4)
TABLE = {"fidelity.kld_mean": exact(0.01)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def register(settings: Settings, digest: str = INT4) -> None:
    registration = Registration(
        model_id="demo-int4-cpu:1", variant=digest, path=settings.home, created=True,
        question="", answer="", right=True,
    )  # fmt: skip
    champion = variant(digest, Precision.INT4, 1)
    record_champion(settings, "demo", registration, champion, run_id=RUN)


def reason_of(settings: Settings, name: str = "demo") -> str:
    found = champion_in_place(name, settings)
    assert isinstance(found.metrics, NoChampion)
    assert found.variant is None
    return found.metrics.reason


def test_champion_is_known_with_its_metrics_and_its_variant(settings: Settings) -> None:
    write_run(settings, RUN, TABLE, conditions=CONDITIONS)
    register(settings)
    found = champion_in_place("demo", settings)
    assert isinstance(found.metrics, ChampionMetrics)
    assert (found.metrics.model_id, found.metrics.run_id) == ("demo-int4-cpu:1", RUN)
    assert (found.metrics.conditions, found.metrics.metrics) == (CONDITIONS, TABLE)
    assert found.variant is not None
    assert found.variant.digest == INT4


def test_name_without_a_champion_has_none(settings: Settings) -> None:
    assert reason_of(settings) == "there is no champion yet"


def test_evidence_that_is_gone_is_said_and_stops_nothing(settings: Settings) -> None:
    register(settings)
    assert reason_of(settings).startswith("the evidence of demo-int4-cpu:1 cannot be used")


def test_damaged_evidence_is_said_and_stops_nothing(settings: Settings) -> None:
    folder = write_run(settings, RUN, TABLE)
    register(settings)
    (folder / "metrics.json").write_text('{"schema": "ingot.release/2"}')
    assert "is damaged" in reason_of(settings)


def test_run_that_knows_nothing_of_the_champion_is_said(settings: Settings) -> None:
    write_run(settings, RUN, TABLE)
    register(settings, digest=INT8)
    assert reason_of(settings) == f"run {RUN} knows nothing of demo-int4-cpu:1"


def test_damaged_ledger_is_said_and_stops_nothing(settings: Settings) -> None:
    settings.ledger.mkdir(parents=True)
    (settings.ledger / "demo.json").write_text("{")
    assert "cannot be read" in reason_of(settings)


def test_champion_of_an_older_run_has_no_conditions(settings: Settings) -> None:
    write_run(settings, RUN, TABLE)
    register(settings)
    found = champion_in_place("demo", settings).metrics
    assert isinstance(found, ChampionMetrics)
    assert found.conditions is None
