"""The ledger: who is champion, who was before, and that nothing is lost on the way."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.core.errors import EnvironmentUnfit, InputError
from tasks.core.records import Registration
from tasks.core.settings import Settings
from tasks.foundry.ledger import (
    append_champion,
    champion_before,
    champion_of,
    history_of,
    names,
    record_champion,
)
from tests.foundry_variants import variant_record


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def crown(settings: Settings, version: int, *, name: str = "home", run_id: str = "r") -> None:
    variant = variant_record(f"{version:x}" * 64)
    registration = Registration(
        model_id=f"{name}-int4-cpu:{version}",
        variant=variant.digest,
        path=Path("/x"),
        created=True,
        question="q",
        answer="a",
        right=True,
    )
    record_champion(settings, name, registration, variant, run_id=run_id)


def test_newest_champion_is_last_and_keeps_who_came_before(settings: Settings) -> None:
    for version in (1, 2, 3):
        crown(settings, version)
    ids = [entry.model_id for entry in history_of(settings, "home")]
    assert ids == ["home-int4-cpu:1", "home-int4-cpu:2", "home-int4-cpu:3"]
    champion = champion_of(settings, "home")
    assert champion is not None
    assert champion.model_id == ids[-1]
    assert champion.since.tzinfo == UTC
    assert champion.since <= datetime.now(UTC)


def test_champion_that_stays_champion_keeps_its_entry(settings: Settings) -> None:
    crown(settings, 1, run_id="first")
    before = history_of(settings, "home")
    crown(settings, 1, run_id="second")
    assert history_of(settings, "home") == before


def test_champion_that_returns_gets_a_new_entry(settings: Settings) -> None:
    for version in (1, 2, 1):
        crown(settings, version)
    assert len(history_of(settings, "home")) == 3


def test_going_back_twice_goes_back_two_champions(settings: Settings) -> None:
    for version in (1, 2, 3):
        crown(settings, version)
    for expected in ("home-int4-cpu:2", "home-int4-cpu:1"):
        before = champion_before(settings, "home")
        assert before is not None
        assert before.model_id == expected
        append_champion(settings, "home", before)
    assert champion_before(settings, "home") is None


def test_name_without_champions_has_none(settings: Settings) -> None:
    assert champion_of(settings, "home") is None
    assert champion_before(settings, "home") is None
    assert names(settings) == []


def test_names_are_listed_sorted_and_apart(settings: Settings) -> None:
    crown(settings, 1, name="zebra")
    crown(settings, 1, name="ant")
    assert names(settings) == ["ant", "zebra"]
    assert len(history_of(settings, "ant")) == 1


def test_name_is_found_however_it_is_capitalised(settings: Settings) -> None:
    crown(settings, 1, name="demo")
    crown(settings, 2, name="Demo")
    assert names(settings) == ["demo"]
    assert len(history_of(settings, "DEMO")) == 2
    champion, before = champion_of(settings, "Demo"), champion_before(settings, "dEMO")
    assert champion is not None
    assert before is not None
    assert [champion.variant, before.variant] == ["2" * 64, "1" * 64]


@pytest.mark.parametrize("damage", ["{broken", "", '{"name": "home"}', '{"champions": 3}'])
def test_damaged_ledger_is_reported_and_not_written_over(settings: Settings, damage: str) -> None:
    path = settings.ledger / "home.json"
    path.parent.mkdir(parents=True)
    path.write_text(damage, encoding="utf-8")
    with pytest.raises(EnvironmentUnfit, match="does not write over it"):
        crown(settings, 1)
    assert path.read_text(encoding="utf-8") == damage


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_name_cannot_leave_the_ledgers_folder(settings: Settings, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a name"):
        champion_of(settings, name)


def test_champions_of_several_writers_at_once_are_all_kept(settings: Settings) -> None:
    threads = [threading.Thread(target=crown, args=(settings, n)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(history_of(settings, "home")) == 8
