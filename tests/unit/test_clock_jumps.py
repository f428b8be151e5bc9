"""A clock that jumps by a year, forwards or back, decides nothing."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core.settings import Settings
from tasks.foundry import ledger
from tests.conftest import REPOSITORY
from tests.unit.test_ledger import crown

YEAR = timedelta(days=365)

# Where the date of today is read, and what for.
SHOWN_OR_KEPT = {
    "deployments/stack/processes.py": "since when a process runs, for the reader, and in its log",
    "deployments/trigger.py": "when a sample of an event occurred",
    "deployments/watch/announcement.py": "when an event occurred; it is known by its id",
    "deployments/watch/diary.py": "when a line was said, for the reader",
    "deployments/watch/journal.py": "when something was announced, for the reader",
    "deployments/watch/server.py": "what is listed of the server's events: 60 days, and one ahead",
    "flows/approval.py": "when somebody was asked and answered, for the reader",
    "flows/artifacts.py": "when a release ended, for the reader",
    "flows/remote_steps.py": "when a worker's step began, against the server's time, for the log",
    "tasks/core/reservations.py": "when a ticket was drawn, for the reader",
    "tasks/foundry/chat_template.py": "a prompt that names today's date",
    "tasks/foundry/ledger.py": "since when, for the reader; the order is that of the list",
    "tasks/foundry/roll_back.py": "likewise",
    "flows/rollback_event.py": "when it occurred, for the reader",
    "tasks/variants/built.py": "a model nobody came for in a day; a wrong clock costs a build",
    "tasks/report/write.py": "when a report was written, for the reader",
}


class Jumping(datetime):
    """A clock that the test sets."""

    offset = timedelta()

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + cls.offset


@pytest.mark.parametrize("jump", [-YEAR, YEAR])
def test_ledger_keeps_the_order_in_which_champions_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(ledger, "datetime", Jumping)
    monkeypatch.setattr(Jumping, "offset", timedelta())
    crown(settings, 1)
    monkeypatch.setattr(Jumping, "offset", jump)
    crown(settings, 2)
    present, before = (
        ledger.champion_of(settings, "home"),
        ledger.champion_before(settings, "home"),
    )
    assert present is not None
    assert before is not None
    assert [present.model_id, before.model_id] == ["home-int4-cpu:2", "home-int4-cpu:1"]
    assert abs(present.since - before.since) > YEAR / 2


def wall_clock_reads(source: str) -> list[int]:
    """Give the lines that read the time of day; durations are the monotonic clock's."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        call.lineno
        for call in calls
        if ast.unparse(call.func).endswith(
            ("time.time", "time.time_ns", "datetime.now", "datetime.today", "date.today")
        )
    ]


def test_time_of_day_is_read_only_where_it_decides_nothing() -> None:
    found = {
        file.relative_to(REPOSITORY).as_posix()
        for layer in ("tasks", "flows", "deployments")
        for file in (REPOSITORY / layer).rglob("*.py")
        if wall_clock_reads(file.read_text(encoding="utf-8"))
    }
    assert found == set(SHOWN_OR_KEPT)


@pytest.mark.parametrize("call", ["time.time()", "datetime.now(UTC)", "datetime.date.today()"])
def test_check_of_the_test_before_sees_a_clock(call: str) -> None:
    assert wall_clock_reads(f"age = {call} - written") == [1]
    assert wall_clock_reads("age = time.monotonic() - began") == []
