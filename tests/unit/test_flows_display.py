"""A release on a terminal: one line a step, cached and failed ones marked, columns kept."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flows.display import StepDisplay, print_rows
from tasks.core.progress import StepState, announce, step


def shown_by(terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=100, force_terminal=terminal, highlight=False), stream


def test_finished_step_is_one_line_with_time_and_detail() -> None:
    console, stream = shown_by(terminal=False)
    with StepDisplay(console), step("build int4") as say:
        say("Olive: building")
        say("1.50 MB")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert "build int4" in lines[0]
    assert " s " in lines[0]
    assert lines[0].endswith("1.50 MB")


def test_cached_step_shows_no_time() -> None:
    console, stream = shown_by(terminal=False)
    with StepDisplay(console):
        announce("build int8", StepState.CACHED)
    assert "= build int8" in stream.getvalue()
    assert " s " not in stream.getvalue()


def test_failed_step_shows_the_reason_and_lets_it_pass() -> None:
    console, stream = shown_by(terminal=False)
    with StepDisplay(console), pytest.raises(OSError, match="disk"), step("build fp16"):
        raise OSError("disk full\nand more")
    assert "✗ build fp16" in stream.getvalue()
    assert "disk full" in stream.getvalue()
    assert "and more" not in stream.getvalue()


def test_running_step_is_live_on_a_terminal() -> None:
    console, stream = shown_by(terminal=True)
    with StepDisplay(console), step("measure speed") as say:
        say("round 2 of 8")
        console.print("")
    assert "round 2 of 8" in stream.getvalue()


def test_square_brackets_in_values_are_not_markup() -> None:
    console, stream = shown_by(terminal=False)
    print_rows(console, "T", [{"value": "0.1 [0.05, 0.2]", "note": "[red]x"}])
    assert "0.1 [0.05, 0.2]" in stream.getvalue()
    assert "[red]x" in stream.getvalue()
