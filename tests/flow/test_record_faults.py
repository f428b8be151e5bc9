"""A record that could not be written, or not in full, is never taken for a result.

Prefect logs that it could not write a record and calls the task Completed (measured, 3.8.8).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow, task

from tasks.core.records import Recipe
from tasks.core.settings import Settings
from tasks.core.task import cached

pytestmark = pytest.mark.flow

_calls: list[str] = []


class Made(Recipe):
    """Any record will do."""

    def objects(self) -> list[str]:
        return []

    def is_settled(self) -> bool:
        return True


@task(name="make", **cached(lambda inputs: [inputs["what"]]))
def make(what: str) -> Made:
    _calls.append(what)
    return Made(precision="int4")


@flow(name="make")
def making(what: str) -> tuple[str, Made]:
    here = make.with_options(result_storage=Settings().records)
    state = here(what, return_state=True)
    return state.name, state.result()


@pytest.fixture
def calls() -> list[str]:
    _calls.clear()
    return _calls


def the_record() -> Path:
    (record,) = Settings().records.iterdir()
    return record


def test_result_whose_record_could_not_be_written_counts_once_only(
    prefect_server: None, ingot_home: Path, calls: list[str]
) -> None:
    ingot_home.mkdir()
    Settings().records.touch()  # so that nothing can be written below it
    assert making("thing") == ("Completed", Made(precision="int4"))
    Settings().records.unlink()
    assert making("thing")[0] == "Completed"
    assert making("thing")[0] == "Cached"
    assert calls == ["thing", "thing"]


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_record_that_was_cut_off_is_no_hit_and_is_written_anew(
    prefect_server: None, ingot_home: Path, calls: list[str], part: float
) -> None:
    making("thing")
    whole = the_record().read_bytes()
    the_record().write_bytes(whole[: int(part * len(whole))])
    assert making("thing")[0] == "Completed"
    assert making("thing")[0] == "Cached"
    assert calls == ["thing", "thing"]
