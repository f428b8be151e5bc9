"""The edge suite goes on behind a case that its process did not survive, and knows which it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core.errors import ChildKilled, ToolFailed
from tasks.core.records import Message
from tasks.foundry.edge.case import Result
from tasks.foundry.edge.catalogue import KILLED, cases
from tasks.foundry.edge.journal import Journal
from tasks.foundry.edge.suite import MOST_BREAKDOWNS, EdgeRequest, put_all_cases
from tests.foundry_fake_service import SCRIPT

pytestmark = pytest.mark.real

NAMES = [case.name for case in cases()]


@pytest.fixture
def request_(tmp_path: Path) -> EdgeRequest:
    return EdgeRequest(
        subject="a" * 64,
        folder=tmp_path,
        scratch=tmp_path,
        frames=tmp_path,
        conversations=[[Message(role="user", content="on")]],
        parameters=1,
        hugging_face={},
    )


def played(request: EdgeRequest, script: dict[str, str]) -> Journal:
    (request.scratch / SCRIPT).write_text(json.dumps(script), encoding="utf-8")
    found, usage = put_all_cases(
        request,
        log=request.scratch / "log",
        say=lambda _: None,
        target="tests.foundry_fake_service:put_cases_by_script",
    )
    assert found.notes == ["finished"]
    killed = request.journal.killing() is not None
    assert (usage.peak_rss_bytes == 2**40) is killed
    return request.journal


def test_crash_fails_its_case_and_the_others_are_put_all_the_same(request_: EdgeRequest) -> None:
    rows = played(request_, {NAMES[3]: "SIGSEGV", NAMES[9]: "leave"}).rows()
    assert sorted(row.case for row in rows) == sorted([*NAMES, KILLED.name])
    failed = {row.case: row.got for row in rows if not row.passed}
    assert list(failed) == [NAMES[3], NAMES[9]]
    assert "SIGSEGV" in failed[NAMES[3]]


@pytest.mark.parametrize("end", ["SIGSEGV", "SIGABRT"])
def test_crash_on_reopening_the_killed_index_fails_the_case_of_the_kill(
    request_: EdgeRequest, end: str
) -> None:
    (killed,) = (row for row in played(request_, {KILLED.name: end}).rows() if not row.passed)
    assert (killed.case, killed.result) == (KILLED.name, Result.BROKEN)
    assert end in killed.got


def test_kill_that_was_not_ours_is_want_of_memory_and_no_finding(request_: EdgeRequest) -> None:
    with pytest.raises(ChildKilled):
        played(request_, {NAMES[0]: "SIGKILL"})
    assert request_.journal.rows() == []


def test_service_that_breaks_down_again_and_again_is_given_up(request_: EdgeRequest) -> None:
    rows = played(request_, dict.fromkeys(NAMES, "SIGABRT")).rows()
    assert len(rows) == len(NAMES) + 1
    assert {row.result for row in rows} == {Result.BROKEN}
    assert sum("broke down: " in row.got for row in rows) == MOST_BREAKDOWNS


def test_child_that_does_not_get_to_a_case_is_an_error(request_: EdgeRequest) -> None:
    with pytest.raises(ToolFailed, match=r"script\.json"):
        put_all_cases(
            request_,
            log=request_.scratch / "log",
            say=lambda _: None,
            target="tests.foundry_fake_service:put_cases_by_script",
        )
