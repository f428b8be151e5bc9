"""A run on a machine that has other things to do is marked, by what the kernel counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.examine.speed.machine import Weather, during, is_contended


def weather(at_s: float, stalled_s: float | None, *, stolen_s: float = 0.0) -> Weather:
    return Weather(at_s, 0.5, 0.0, stalled_s, stolen_s, all_s=2 * at_s)


@pytest.mark.parametrize(
    ("cores", "stall", "load", "contended"),
    [
        (1.0, 0.0, 0.5, False),
        (1.9, 9.9, 50.0, False),  # the load average covers a minute, the stall this run
        (1.0, 10.0, 0.5, True),
        (0.89, 0.0, 0.5, True),
        (1.0, None, 1.9, False),
        (1.0, None, 2.1, True),
    ],
)
def test_waiting_for_a_processor_marks_a_run(
    cores: float, stall: float | None, load: float, contended: bool
) -> None:
    assert is_contended(cores, stall, load, 2) is contended


def test_only_the_time_of_the_run_counts() -> None:
    row = during(weather(100.0, 50.0), weather(100.2, 50.1, stolen_s=0.1), 1.0)
    assert row["stall_pct"] == pytest.approx(50)
    assert row["steal_pct"] == pytest.approx(25)
    assert row["contended"]
    assert not during(weather(100.0, 50.0), weather(100.2, 50.001), 1.0)["contended"]


def test_pressure_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "cpu"
    file.write_text("some avg10=12.50 avg60=1.00 avg300=0.10 total=1500000\nfull avg10=0.00\n")
    now = Weather.now(file)
    assert (now.pressure, now.stalled_s) == (12.5, 1.5)
    nowhere = Weather.now(tmp_path / "nowhere")
    assert (nowhere.pressure, nowhere.stalled_s) == (None, None)
