"""Which champion is soaked when no name is given."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from flows.soak_order import SoakRequest, check_soak, soaked_longest_ago
from tasks.core.errors import InputError
from tasks.core.records import Precision
from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion, append_champion

pytestmark = pytest.mark.usefixtures("ingot_home")


def register(name: str, variant: str) -> None:
    champion = Champion(
        model_id=f"{name}-int4-cpu:{variant}",
        variant=variant * 64,
        checkpoint="c" * 64,
        precision=Precision.INT4,
        run_id="run",
        since=datetime(2026, 11, 1, tzinfo=UTC),
        size_bytes=1,
    )
    append_champion(Settings(), name, champion)


def soaked(variant: str, day: int) -> None:
    run = f"202611{day:02}T020000Z-soak-x"
    folder = Settings().runs / run
    folder.mkdir(parents=True)
    document = {"schema": "ingot.soak/1", "run_id": run, "variant": variant * 64, "more": []}
    (folder / "soak.json").write_text(json.dumps(document))


def test_without_champions_there_is_none() -> None:
    assert soaked_longest_ago(Settings()) is None
    with pytest.raises(InputError):
        check_soak(SoakRequest())


def test_champions_take_turns() -> None:
    register("a", "1")
    register("b", "2")
    soaked("1", day=1)
    assert soaked_longest_ago(Settings()) == "b"  # never
    soaked("2", day=8)
    assert soaked_longest_ago(Settings()) == "a"
    soaked("1", day=15)
    assert soaked_longest_ago(Settings()) == "b"


def test_new_champion_of_a_name_was_never_soaked() -> None:
    register("a", "1")
    register("b", "2")
    soaked("1", day=1)
    soaked("2", day=2)
    register("b", "3")
    assert soaked_longest_ago(Settings()) == "b"


def test_damaged_evidence_counts_for_nothing() -> None:
    register("a", "1")
    register("b", "2")
    soaked("2", day=1)
    soaked("1", day=2)
    (Settings().runs / "20261102T020000Z-soak-x" / "soak.json").write_text("{")
    assert soaked_longest_ago(Settings()) == "a"
