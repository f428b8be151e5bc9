"""Whoever listens hears what a step does; without a listener it is a log line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tasks.core.errors import ToolFailed
from tasks.core.progress import (
    PROGRESS_FILE,
    StepEvent,
    StepState,
    add_listener,
    announce,
    listening,
    remove_listener,
    report_progress,
    step,
)


def heard(events: list[StepEvent]) -> list[tuple[str, StepState, str]]:
    return [(event.step, event.state, event.detail) for event in events]


def test_step_is_heard_from_start_to_end() -> None:
    events: list[StepEvent] = []
    with listening(events.append), step("build int4") as say:
        say("quantising")
        say("12 MB")
    assert heard(events) == [
        ("build int4", StepState.STARTED, ""),
        ("build int4", StepState.WAITING, "quantising"),
        ("build int4", StepState.WAITING, "12 MB"),
        ("build int4", StepState.FINISHED, "12 MB"),
    ]
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)


@pytest.mark.parametrize("problem", [ToolFailed("no graph", next_step="look"), KeyboardInterrupt()])
def test_failure_is_heard_and_passed_on(problem: BaseException) -> None:
    events: list[StepEvent] = []
    with pytest.raises(type(problem)), listening(events.append), step("build int4"):
        raise problem
    assert heard(events) == [
        ("build int4", StepState.STARTED, ""),
        ("build int4", StepState.FAILED, str(problem)),
    ]


def test_every_listener_hears_and_none_after_its_block() -> None:
    first: list[StepEvent] = []
    second: list[StepEvent] = []
    with listening(first.append):
        with listening(second.append):
            announce("judge", StepState.CACHED)
        announce("judge", StepState.FINISHED)
    announce("judge", StepState.FAILED)
    assert [event.state for event in first] == [StepState.CACHED, StepState.FINISHED]
    assert [event.state for event in second] == [StepState.CACHED]


def test_listener_hears_from_its_adding_to_its_removal() -> None:
    events: list[StepEvent] = []
    add_listener(events.append)
    announce("judge", StepState.STARTED)
    remove_listener(events.append)
    announce("judge", StepState.FINISHED)
    assert [event.state for event in events] == [StepState.STARTED]


def test_listener_of_a_failed_block_hears_no_more() -> None:
    events: list[StepEvent] = []
    with pytest.raises(RuntimeError), listening(events.append):
        raise RuntimeError
    announce("judge", StepState.STARTED)
    assert events == []


def test_without_a_listener_it_is_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tasks.core.progress"), step("judge") as say:
        say("arithmetic")
    assert caplog.messages == ["judge started ", "judge finished arithmetic"]


def test_child_s_progress_is_a_line_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress.txt"))
    report_progress("loading weights")
    report_progress("größer")
    assert (tmp_path / "progress.txt").read_text("utf-8") == "loading weights\ngrößer\n"


def test_progress_outside_a_child_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(PROGRESS_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.DEBUG, logger="tasks.core.progress"):
        report_progress("loading weights")
    assert caplog.messages == ["loading weights"]
    assert list(tmp_path.iterdir()) == []
