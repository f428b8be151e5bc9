"""What killed runs left behind goes; what anybody may need stays, whatever the clock says."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.core import housekeeping
from tasks.core.errors import DoesNotFit, EnvironmentUnfit
from tasks.core.files import write_text_atomically
from tasks.core.housekeeping import clear_leftovers, require_writable
from tasks.core.settings import Settings
from tests.other_process import python

NOBODY = 2**22 + 1  # above the largest process id of a 64-bit Linux
YEAR_S = 365 * 24 * 3600.0
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

RUN = """
import sys
from tasks.core.housekeeping import clear_leftovers
from tasks.core.settings import Settings
clear_leftovers(Settings())
print("runs", flush=True)
sys.stdin.readline()
"""

DIE_WHILE_WRITING = """
import os, sys
from pathlib import Path
from tasks.core.files import write_text_atomically
os.fsync = lambda *_: os._exit(9)
write_text_atomically(Path(sys.argv[1]), "new")
"""


@contextmanager
def another_run() -> Iterator[subprocess.Popen[str]]:
    process = python(RUN)
    assert process.stdout is not None
    assert process.stdout.readline() == "runs\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_leftovers_go_and_results_stay(ingot_home: Path) -> None:
    settings = Settings()
    result = settings.records / f"build-variant-{'0' * 64}"
    run = settings.runs / "20261122T080000Z-demo-cccccccc"
    orphans = [
        settings.store / "tmp" / "0123456789ab",
        settings.foundry_staging / "0123456789ab.partial",
        settings.runs / "0123456789ab.partial",
    ]
    for folder in (*orphans, run, settings.records):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_text("half")
    failure = settings.records / ("0" * 32)
    for record in (failure, result):
        record.write_text("{}")
    assert clear_leftovers(settings) == 4
    assert result.exists()
    assert run.exists()
    assert not any(gone.exists() for gone in (*orphans, failure))


def test_nothing_is_cleared_where_nothing_is(ingot_home: Path) -> None:
    assert clear_leftovers(Settings()) == 0
    assert not ingot_home.exists()


@pytest.mark.parametrize("jump_s", [-YEAR_S, 0.0, YEAR_S])
def test_failure_stays_while_the_run_that_wrote_it_may_read_it(
    ingot_home: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    settings = Settings()
    settings.records.mkdir(parents=True)
    failure = settings.records / ("0" * 32)
    with another_run() as writer:
        failure.write_text("{}")
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + jump_s)
        written = now() - jump_s
        os.utime(failure, (written, written))
        assert clear_leftovers(settings) == 0
        assert failure.exists()
        writer.send_signal(KILL)
        writer.wait()
        assert clear_leftovers(settings) == 1
    assert not failure.exists()


def test_file_that_a_killed_process_was_writing_goes(ingot_home: Path) -> None:
    ledger = ingot_home / "ledger" / "demo.json"
    write_text_atomically(ledger, "old")
    assert python(DIE_WHILE_WRITING, str(ledger)).wait() == 9
    assert len(list(ledger.parent.iterdir())) == 2
    assert clear_leftovers(Settings()) == 1
    assert list(ledger.parent.iterdir()) == [ledger]


def test_file_that_is_being_written_here_or_on_another_machine_stays(ingot_home: Path) -> None:
    ledger = ingot_home / "ledger"
    ledger.mkdir(parents=True)
    here = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    for owner in (f"{here}-{os.getpid()}", f"00000000-{NOBODY}"):
        (ledger / f".demo.json.{owner}-0123456789ab.partial").touch()
    assert clear_leftovers(Settings()) == 0
    assert len(list(ledger.iterdir())) == 2


@pytest.mark.parametrize("jump_s", [-YEAR_S, YEAR_S])
def test_newest_logs_stay_within_the_bound(
    ingot_home: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    logs = Settings().logs
    (logs / "foundry").mkdir(parents=True)
    for turn in range(6):
        file = logs / "foundry" / f"{turn}.log"
        file.write_bytes(bytes(100))
        os.utime(file, (time.time() + jump_s + turn,) * 2)
    monkeypatch.setattr(housekeeping, "MOST_LOG_BYTES", 399)
    assert clear_leftovers(Settings()) == 3
    assert sorted(file.name for file in logs.rglob("*.log")) == ["3.log", "4.log", "5.log"]
    monkeypatch.setattr(housekeeping, "MOST_LOGS", 2)
    assert clear_leftovers(Settings()) == 1
    monkeypatch.setattr(housekeeping, "MOST_LOG_BYTES", 1)
    assert clear_leftovers(Settings()) == 1
    assert [file.name for file in logs.rglob("*.log")] == ["5.log"]


def test_leftover_that_cannot_be_removed_stops_nothing(
    ingot_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ingot_home.mkdir()
    (ingot_home / "store").touch()
    half = ingot_home / "runs" / "0123456789ab.partial"
    half.mkdir(parents=True)
    (ingot_home / "locks").touch()  # so that nothing can be locked
    assert clear_leftovers(Settings()) == 0
    assert "leftovers of earlier runs stay" in caplog.text
    assert half.exists()


# ---------------------------------------------------------------- may anything be kept?


def test_home_that_can_be_written_is_not_refused_and_stays_clean(ingot_home: Path) -> None:
    ingot_home.mkdir()
    require_writable(Settings())
    assert list(ingot_home.iterdir()) == []


def test_home_that_can_be_made_is_not_made(ingot_home: Path) -> None:
    require_writable(Settings())
    assert not ingot_home.exists()


@pytest.mark.parametrize("place", ["home", "store", "ledger", "runs"])
def test_home_in_whose_place_is_a_file_is_refused(ingot_home: Path, place: str) -> None:
    settings = Settings()
    wrong: Path = getattr(settings, place)
    wrong.parent.mkdir(parents=True, exist_ok=True)
    wrong.touch()
    with pytest.raises(EnvironmentUnfit, match="INGOT_HOME") as refusal:
        require_writable(settings)
    assert str(wrong) in refusal.value.message


@pytest.mark.parametrize(
    ("number", "kind"), [(30, EnvironmentUnfit), (13, EnvironmentUnfit), (28, DoesNotFit)]
)
def test_home_that_takes_no_bytes_is_refused_by_its_reason(
    ingot_home: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(kind, match=os.strerror(number)) as refusal:
        require_writable(Settings())
    assert type(refusal.value) is kind
