"""What killed runs left behind goes; what anybody may need stays."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from tasks.core.housekeeping import clear_leftovers
from tasks.core.settings import Settings

NOBODY = 2**22 + 1  # above the largest process id of a 64-bit Linux


def test_leftovers_go_and_results_stay(ingot_home: Path) -> None:
    settings = Settings()
    orphan = settings.store / "tmp" / f"{socket.gethostname()}-{NOBODY}-abc"
    orphan.mkdir(parents=True)
    (orphan / "model.onnx").write_text("half")
    settings.records.mkdir(parents=True)
    failure = settings.records / ("0" * 32)
    result = settings.records / f"build-variant-{'0' * 64}"
    recent = settings.records / ("1" * 32)
    for record in (failure, recent, result):
        record.write_text("{}")
    long_ago = time.time() - 7200
    for record in (failure, result):
        os.utime(record, (long_ago, long_ago))
    assert clear_leftovers(settings) == 2
    assert result.exists()
    assert recent.exists()
    assert not failure.exists()
    assert not orphan.exists()


def test_empty_home_stays_empty(ingot_home: Path) -> None:
    assert clear_leftovers(Settings()) == 0
    assert not ingot_home.exists()
