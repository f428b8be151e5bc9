"""The journal of the edge suite: what was going on when its writer died."""

from __future__ import annotations

from pathlib import Path

from tasks.foundry.edge.catalogue import KILLED
from tasks.foundry.edge.journal import Event, Journal, Killing


def test_journal_says_what_was_going_on_when_its_writer_died(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert (journal.in_progress(), journal.is_killed(), journal.usual()) == (None, False, None)
    journal.note(Event(usual="yes"))
    journal.note(Event(started="one"))
    assert (journal.in_progress(), journal.usual()) == ("one", "yes")
    journal.fail(KILLED, "why")
    assert journal.in_progress() == "one"
    journal.note(Event(killing=Killing(cpu_s=1.0, peak_rss_bytes=1)))
    assert journal.is_killed()
    journal.note(Event(started="one"))
    assert not journal.is_killed()


def test_line_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.note(Event(started="one"))
    with (tmp_path / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"started": "tw')
    assert journal.in_progress() == "one"
