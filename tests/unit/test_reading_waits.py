"""Whatever reads a checkpoint in full by itself waits until nothing is timed on the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.watch.local import LocalPlace
from tasks.checkpoint.known_digests import KnownDigests
from tasks.core.reservations import FOLDER, Reservations, reserve_machine
from tasks.core.settings import Settings
from tests.sample_checkpoint import write_sample_checkpoint

SOON_S = 120.0


def take_in(landing: Path) -> object:
    place = LocalPlace(landing)
    (sighting,) = place.look()
    return place.take_in(sighting).digest


def choose_newest(landing: Path) -> object:
    return KnownDigests(landing.parent / "known.json").digest_of(landing / "model")


def steps() -> list[str]:
    return [ticket.step for ticket in Reservations(Settings().machine / FOLDER).tickets()]


def wait_for_its_ticket(reading: Future[object]) -> None:
    ends_at = time.monotonic() + SOON_S
    while "read model" not in steps():
        assert not reading.done(), "it read beside what is timed"
        assert time.monotonic() < ends_at, "it neither reads nor waits"
        time.sleep(0.02)


@pytest.mark.parametrize("read", [take_in, choose_newest])
def test_checkpoint_is_read_once_the_timing_has_ended(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    landing = tmp_path / "landing"
    write_sample_checkpoint(landing / "model")
    with ThreadPoolExecutor() as pool:
        with reserve_machine(step="measure speed"):
            reading = pool.submit(read, landing)
            wait_for_its_ticket(reading)
            assert not reading.done()
        assert reading.result(SOON_S)
    assert steps() == []
