"""What was measured is kept as it comes, goes on after an interruption, and is never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kept import Kept
from benchmarks.records import Conditions, Lane, NotMeasured, Plan, Readings
from benchmarks.runner import run_rounds
from tasks.core.errors import ToolFailed

CONDITIONS = Conditions(
    section="fan-out",
    plan="size 0.5",
    sources="aa",
    revision="1234",
    machine="a machine",
    versions={"torch": "2"},
    rounds=3,
)


def resumed(folder: Path, **changes: object) -> Kept:
    return Kept.resumed(folder, CONDITIONS.model_copy(update=changes))


def test_samples_come_back(tmp_path: Path) -> None:
    resumed(tmp_path).add("fast", 0, {"seconds": 2.0, "cpu_s": 1.0})
    kept = Kept.read(tmp_path, "fan-out")
    assert kept is not None
    assert kept.values("fast", "seconds") == {0: 2.0}
    assert kept.has("fast", 0)
    assert not kept.has("fast", 1)


def test_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    done: list[int] = []

    def measure(number: int) -> Readings:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return {"seconds": 1.0}

    lanes = [Lane("fast", measure)]
    with pytest.raises(KeyboardInterrupt):
        run_rounds(lanes, Plan(rounds=3), resumed(tmp_path))
    again: list[int] = []
    lanes = [Lane("fast", lambda number: (again.append(number), {"seconds": 1.0})[1])]
    run_rounds(lanes, Plan(rounds=3), resumed(tmp_path))
    assert (done, again) == ([0, 1], [2])


@pytest.mark.parametrize(
    "change",
    [
        {"plan": "size 0.1"},
        {"sources": "bb"},
        {"machine": "another"},
        {"versions": {"torch": "3"}},
    ],
)
def test_other_conditions_begin_anew(tmp_path: Path, change: dict[str, object]) -> None:
    resumed(tmp_path).add("fast", 0, {"seconds": 2.0})
    assert not resumed(tmp_path, **change).has("fast", 0)


def test_more_rounds_keep_those_that_are_there(tmp_path: Path) -> None:
    resumed(tmp_path).add("fast", 0, {"seconds": 2.0})
    kept = resumed(tmp_path, rounds=9)
    assert kept.has("fast", 0)
    assert kept.conditions.rounds == 9


@pytest.mark.parametrize("problem", [NotMeasured("no compiler"), ToolFailed("no\nmodel")])
def test_lane_that_fails_says_why_and_stops_no_other(tmp_path: Path, problem: Exception) -> None:
    tried: list[int] = []

    def fail(number: int) -> Readings:
        tried.append(number)
        raise problem

    kept = resumed(tmp_path)
    run_rounds([Lane("peer", fail), Lane("fast", lambda _: {"s": 1.0})], Plan(rounds=3), kept)
    assert len(tried) == 1
    assert kept.why_not("peer") == f"peer: {' '.join(str(problem).split())}"
    assert kept.values("peer", "s") == {}
    assert set(kept.values("fast", "s")) == {0, 1, 2}
    found = kept.figure("peer", "s")
    assert found.value is None
    assert found.reason


def test_reason_goes_once_the_lane_is_measured(tmp_path: Path) -> None:
    resumed(tmp_path).give_up("peer", "no compiler")
    assert resumed(tmp_path).why_not("peer") == ""


def test_every_lane_runs_once_a_round_in_changing_order(tmp_path: Path) -> None:
    order: list[tuple[int, str]] = []

    def lane(name: str) -> Lane:
        return Lane(name, lambda number: (order.append((number, name)), {"s": 1.0})[1])

    run_rounds([lane(name) for name in "abcd"], Plan(rounds=5), resumed(tmp_path))
    rounds = [[name for number, name in order if number == wanted] for wanted in range(5)]
    assert all(sorted(names) == list("abcd") for names in rounds)
    assert len({"".join(names) for names in rounds}) > 1
    assert [number for number, _ in order] == sorted(number for number, _ in order)
