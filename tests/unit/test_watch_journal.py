"""What was announced is known after a restart, whenever the watcher was killed."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.watch.announcement import landing_of
from deployments.watch.journal import Journal
from deployments.watch.sighting import Landed, Sighting
from tasks.core.errors import EnvironmentUnfit

DIGEST = "d" * 64
SIGHTING = Sighting("/landing/a", "a", "s1")


def landed(name: str = "a") -> Landed:
    return Landed(Path("/landing/a"), name, DIGEST, 1, has_questions=True)


def test_entry_is_there_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "watch" / "journal.json"
    journal = Journal(file)
    journal.enter(landing_of(landed(), SIGHTING))
    assert not journal.is_saved
    journal.save()
    after = Journal(file)
    assert after.knows(SIGHTING)
    assert not after.knows(Sighting("/landing/a", "a", "s2"))
    assert after.announced(DIGEST, "a", has_questions=True).path == "/landing/a"
    assert after.announced(DIGEST, "b", has_questions=True) is None


def test_questions_are_news_for_what_was_announced_without_and_not_the_other_way_round(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal.json")
    without = dataclasses.replace(landed(), has_questions=False)
    journal.enter(landing_of(without, SIGHTING))
    assert journal.announced(DIGEST, "a", has_questions=False)
    assert journal.announced(DIGEST, "a", has_questions=True) is None
    assert landing_of(landed(), SIGHTING).id != landing_of(without, SIGHTING).id
    journal.enter(landing_of(landed("b"), SIGHTING))
    assert journal.announced(DIGEST, "b", has_questions=False)


def test_journal_of_an_older_watcher_is_read_and_what_it_announced_is_known(
    tmp_path: Path,
) -> None:
    at = "2026-11-22T21:58:56Z"
    folder = {"signature": "s1", "name": "a", "digest": DIGEST, "reason": None, "at": at}
    first = {"path": "/landing/a", "event": "e130964e", "at": at}
    pages = {"folders": {"/landing/a": folder}, "announced": {f"{DIGEST}/a": first}}
    file = tmp_path / "journal.json"
    file.write_text(json.dumps({"version": 1, **pages}))
    journal = Journal(file)
    assert journal.knows(SIGHTING)
    for has_questions in (True, False):
        assert journal.announced(DIGEST, "a", has_questions).path == "/landing/a"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 2}', '{"folders": {"a": {}}}', "\0\0"]
)
def test_unreadable_journal_is_an_error_and_not_an_empty_one(tmp_path: Path, content: str) -> None:
    file = tmp_path / "journal.json"
    file.write_text(content)
    with pytest.raises(EnvironmentUnfit, match="move it aside"):
        Journal(file)
    assert file.read_text() == content


def test_kill_while_it_is_written_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    code = f"""
import dataclasses, itertools
from pathlib import Path
from deployments.watch.journal import Journal
from tests.unit.test_watch_journal import SIGHTING, landed
from deployments.watch.announcement import landing_of
journal = Journal(Path({str(tmp_path / "journal.json")!r}))
for number in itertools.count():
    at = dataclasses.replace(SIGHTING, key=f"/landing/{{number}}")
    journal.enter(landing_of(landed(f"m{{number}}"), at))
    journal.save()
    print(number, flush=True)
"""
    for enough in (3, 40):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        while (last := int(process.stdout.readline())) < enough:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = int((process.stdout.read().split() or [last])[-1])
        after = Journal(tmp_path / "journal.json")
        assert after.announced(DIGEST, f"m{last}", has_questions=True) is not None


def test_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "journal.json"
    journal = Journal(file)
    journal.enter(landing_of(landed(), SIGHTING))
    journal.save()
    before = file.read_text()
    journal.enter(landing_of(landed("b"), SIGHTING))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", _full)
        with pytest.raises(OSError, match="No space"):
            journal.save()
    assert file.read_text() == before
    assert not journal.is_saved
    assert list(tmp_path.iterdir()) == [file]
    journal.save()
    assert Journal(file).announced(DIGEST, "b", has_questions=True) is not None


def _full(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")
