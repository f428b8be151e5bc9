"""Heavy steps of all processes on a machine: as many as its memory holds, or one alone."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.core import reservations
from tasks.core.errors import DoesNotFit, EnvironmentUnfit, ResourceBusy
from tasks.core.locks import Claims
from tasks.core.memory import Memory, bounded
from tasks.core.records import Checkpoint, Precision, Recipe
from tasks.core.reservations import (
    FOLDER,
    GIB,
    RESERVE_BYTES,
    Reservations,
    reserve_machine,
    reserve_memory,
    usable_bytes,
)
from tasks.core.settings import Settings
from tasks.environment.forecast import forecast_build

SOON_S = 120.0
MACHINE = Memory(24 * GIB, 22 * GIB)  # steps may have 20 GiB of it
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

HOLD = """
import sys
from pathlib import Path
from tasks.core.memory import Memory
from tasks.core.reservations import Reservations
folder, available, step, wanted, exclusive = sys.argv[1:]
memory = Memory(int(available), int(available))
tickets = Reservations(Path(folder), read=lambda: memory)
say = lambda line: print("waits", line, flush=True)
with tickets.hold(step, wanted_bytes=int(wanted), exclusive=exclusive == "alone", say=say):
    print("runs", flush=True)
    sys.stdin.readline()
"""

HAMMER = """
import random, sys, time
from pathlib import Path
from tasks.core.memory import Memory
from tasks.core.reservations import GIB, Reservations
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
draw = random.Random(seed)
memory = Memory(12 * GIB, 12 * GIB)
tickets = Reservations(folder, read=lambda: memory)
sys.stdin.readline()
for turn in range(50):
    alone = draw.random() < 0.05
    wanted = 0 if alone else draw.choice([1, 2, 3, 6]) * GIB
    with tickets.hold(f"{seed}.{turn}", wanted_bytes=wanted, exclusive=alone):
        began = time.monotonic_ns()
        time.sleep(draw.uniform(0, 0.01))
        print(began, time.monotonic_ns(), wanted, int(alone), flush=True)
"""


class Step:
    """A step in a process of its own that holds its ticket until it is let go or killed."""

    def __init__(
        self, folder: Path, name: str, wanted_bytes: int = 0, *, alone: bool = False
    ) -> None:
        how = "alone" if alone else "shared"
        available = str(MACHINE.available_bytes)
        self._process = python(HOLD, str(folder), available, name, str(wanted_bytes), how)
        self._running = threading.Event()
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        wait_until(lambda: self._running.is_set() or self.said, f"{name} has a ticket")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "runs\n":
                self._running.set()
            else:
                self.said.append(line.removeprefix("waits ").strip())

    def runs(self) -> bool:
        return self._running.wait(SOON_S)

    def waits(self) -> bool:
        """Long enough for two polls; a step that wrongly runs does so at its first look."""
        return not self._running.wait(2.5 * reservations.POLL_S)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("end\n")
        self._process.stdin.flush()
        self._process.wait(SOON_S)

    def kill(self) -> None:
        self._process.send_signal(KILL)
        self._process.wait(SOON_S)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(SOON_S)


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: object, what: str) -> None:
    assert callable(condition)
    ends_at = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < ends_at, what
        time.sleep(0.02)


class Crowd:
    """Steps that are ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._steps: list[Step] = []

    def step(self, name: str, gib: float = 0.0, *, alone: bool = False) -> Step:
        self._steps.append(Step(self.folder, name, round(gib * GIB), alone=alone))
        return self._steps[-1]

    def close(self) -> None:
        for step in self._steps:
            step.close()


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    crowd = Crowd(tmp_path / "machine")
    yield crowd
    crowd.close()


@pytest.fixture
def tickets(tmp_path: Path) -> Reservations:
    return Reservations(tmp_path / "machine", read=lambda: MACHINE)


# ---------------------------------------------------------------- weights


def test_processes_that_fit_run_side_by_side_and_one_too_many_waits(crowd: Crowd) -> None:
    first, second = crowd.step("first", 12), crowd.step("second", 8)
    assert first.runs()
    assert second.runs()
    third = crowd.step("third", 0.5)
    assert third.waits()
    second.end()
    assert third.runs()


def test_process_larger_than_the_machine_runs_alone(crowd: Crowd) -> None:
    small = crowd.step("small", 1)
    giant = crowd.step("giant", 100)
    assert giant.waits()
    small.end()
    assert giant.runs()
    another = crowd.step("another", 0.1)
    assert another.waits()
    giant.end()
    assert another.runs()


def eight_billion() -> Checkpoint:
    """Llama 3.1 8B's shape."""
    return Checkpoint(
        name="eight",
        path=Path("/models/eight"),
        digest="0" * 64,
        family="llama",
        architecture="LlamaForCausalLM",
        parameters=8_030_261_248,
        weight_dtype="BF16",
        source_bytes=16_060_522_496,
        weight_files=["model.safetensors"],
        hidden_size=4096,
        layers=32,
        attention_heads=32,
        kv_heads=8,
        head_size=128,
        vocabulary_size=128_256,
        context_length=131_072,
        tied_embeddings=False,
        eos_token_ids=[128_009],
        chat_template_file="chat_template.jinja",
        sampling={},
    )


def half_billion() -> Checkpoint:
    """Qwen2.5-0.5B's shape."""
    return eight_billion().model_copy(
        update={"name": "half", "parameters": 494_032_768, "source_bytes": 988_097_824}
    )


def sized(parameters: int) -> Checkpoint:
    """A checkpoint in two-byte weights whose forecast, alone, tells it from the others."""
    return eight_billion().model_copy(
        update={"name": "sized", "parameters": parameters, "source_bytes": 2 * parameters}
    )


def int4_gib(checkpoint: Checkpoint) -> float:
    return (
        forecast_build(checkpoint, Recipe(precision=Precision.INT4, builder="plain")).peak_rss_bytes
        / GIB
    )


def test_three_int4_builds_of_8b_models_run_one_at_a_time_on_24_gib(crowd: Crowd) -> None:
    builds = [crowd.step(f"build {turn}", int4_gib(eight_billion())) for turn in range(3)]
    for turn, build in enumerate(builds):
        assert build.runs()
        assert all(later.waits() for later in builds[turn + 1 :])
        build.end()


@pytest.mark.parametrize(
    ("parameters", "beside"),
    [(1_235_814_400, 2), (1_777_088_000, 1)],  # Llama 3.2 1B's, and 1.8 B: 9.8 and 13.8 GiB
)
def test_int4_builds_run_beside_each_other_as_far_as_24_gib_go(
    crowd: Crowd, parameters: int, beside: int
) -> None:
    """The builds of 8 B above are larger than the machine, and would be alone for that reason."""
    need = int4_gib(sized(parameters))
    assert beside * need <= usable_bytes(MACHINE) / GIB < (beside + 1) * need
    builds = [crowd.step(f"build {turn}", need) for turn in range(3)]
    assert all(build.runs() for build in builds[:beside])
    assert builds[beside].waits()
    builds[0].end()
    assert builds[beside].runs()


def test_three_int4_builds_of_8b_models_run_one_at_a_time_where_one_fits(tmp_path: Path) -> None:
    need = round(int4_gib(eight_billion()) * GIB)
    machine = Memory(96 * GIB, 90 * GIB)
    assert need <= usable_bytes(machine) < 2 * need
    tickets = Reservations(tmp_path, read=lambda: machine)
    with ThreadPoolExecutor() as pool:
        with tickets.hold("build 0", wanted_bytes=need):
            later = [pool.submit(_hold_shortly, tickets, f"build {n}", need) for n in (1, 2)]
            wait_until(lambda: len(tickets.tickets()) == 3, "all have tickets")
            time.sleep(2.5 * reservations.POLL_S)
            assert not any(build.done() for build in later)
        assert [build.result(SOON_S) for build in later] == ["build 1", "build 2"]


def test_three_int4_builds_of_small_models_overlap_on_24_gib(crowd: Crowd) -> None:
    builds = [crowd.step(f"build {turn}", int4_gib(half_billion())) for turn in range(3)]
    assert all(build.runs() for build in builds)


def test_free_memory_is_not_counted_twice(crowd: Crowd, tmp_path: Path) -> None:
    """The machine of this test always says that 22 GiB are free: nobody has used any yet."""
    assert crowd.step("first", 15).runs()
    assert crowd.step("second", 15).waits()


def test_step_waits_while_other_programs_have_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservations, "LOOK_AGAIN_S", 0.1)
    free = [22 * GIB]
    tickets = Reservations(tmp_path, read=lambda: Memory(24 * GIB, free[-1]))
    with ThreadPoolExecutor() as pool, tickets.hold("first", wanted_bytes=GIB):
        free.append(3 * GIB)
        second = pool.submit(_hold_shortly, tickets, "second", 4 * GIB)
        wait_until(lambda: len(tickets.tickets()) == 2, "second has a ticket")
        time.sleep(2.5 * reservations.POLL_S)
        assert not second.done()
        free.append(22 * GIB)
        assert second.result(SOON_S) == "second"


# ---------------------------------------------------------------- alone


def test_timing_waits_for_the_others_and_the_others_for_it(crowd: Crowd) -> None:
    build = crowd.step("build int4 of demo", 6.1)
    timing = crowd.step("measure speed", alone=True)
    assert timing.waits()
    later = crowd.step("small build", 0.1)
    assert later.waits()
    build.end()
    assert timing.runs()
    assert later.waits()
    timing.end()
    assert later.runs()
    assert timing.said == ["waiting for a quiet machine: build int4 of demo holds 6.1 GiB"]
    assert later.said[0] == (
        "waiting for memory: build int4 of demo holds 6.1 GiB; 1 step waits before this one"
    )
    assert later.said[-1] == "waiting for memory: measure speed has the machine to itself"


def test_two_timings_run_in_turn(crowd: Crowd) -> None:
    first, second = crowd.step("first", alone=True), crowd.step("second", alone=True)
    assert first.runs()
    assert second.waits()
    first.end()
    assert second.runs()


# ---------------------------------------------------------------- order


def test_small_steps_do_not_overtake_a_large_one(crowd: Crowd) -> None:
    first = crowd.step("first", 10)
    large = crowd.step("large", 15)
    assert large.waits()
    small = crowd.step("small", 1)
    assert small.waits()
    first.end()
    assert large.runs()
    assert small.runs()


# ---------------------------------------------------------------- death


def test_killed_holder_frees_its_bytes_at_once(crowd: Crowd, tickets: Reservations) -> None:
    holder = crowd.step("holder", 20)
    waiter = crowd.step("waiter", 20)
    assert waiter.waits()
    holder.kill()
    assert waiter.runs()
    assert [ticket.step for ticket in tickets.tickets()] == ["waiter"]


def test_killed_waiter_stands_in_nobodys_way(crowd: Crowd, tickets: Reservations) -> None:
    holder = crowd.step("holder", 10)
    doomed = crowd.step("doomed", alone=True)
    behind = crowd.step("behind", 5)
    assert behind.waits()
    doomed.kill()
    assert behind.runs()
    assert [ticket.step for ticket in tickets.tickets()] == ["holder", "behind"]
    holder.end()


def test_files_of_the_dead_are_cleared_away(crowd: Crowd, tickets: Reservations) -> None:
    for doomed in (crowd.step("runs", 20), crowd.step("waits", 20)):
        doomed.kill()
    assert tickets.tickets() == []
    assert [entry.name for entry in crowd.folder.iterdir()] == ["mutex"]


# ---------------------------------------------------------------- one process


def _hold_shortly(tickets: Reservations, step: str, wanted_bytes: int) -> str:
    with tickets.hold(step, wanted_bytes=wanted_bytes):
        return step


def test_threads_of_one_process_hold_tickets_of_their_own(tickets: Reservations) -> None:
    together, may_end = threading.Barrier(3), threading.Event()

    def run(step: str) -> None:
        with tickets.hold(step, wanted_bytes=10 * GIB):
            together.wait(SOON_S)
            may_end.wait(SOON_S)

    with ThreadPoolExecutor() as pool:
        for step in ("a", "b"):
            pool.submit(run, step)
        together.wait(SOON_S)
        third = pool.submit(_hold_shortly, tickets, "third", GIB)
        wait_until(lambda: len(tickets.tickets()) == 3, "third has a ticket")
        assert not third.done()
        may_end.set()
        assert third.result(SOON_S) == "third"


def test_step_that_waits_ends_when_its_run_is_stopped(
    tickets: Reservations, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor() as pool, tickets.hold("first", wanted_bytes=20 * GIB):
        second = pool.submit(_hold_shortly, tickets, "second", 20 * GIB)
        wait_until(lambda: len(tickets.tickets()) == 2, "second has a ticket")
        monkeypatch.setattr(reservations, "are_stopping", lambda: True)
        with pytest.raises(EnvironmentUnfit, match="second was stopped from outside"):
            second.result(SOON_S)
        assert [ticket.step for ticket in tickets.tickets()] == ["first"]


def test_failed_step_gives_its_bytes_back(tickets: Reservations) -> None:
    with pytest.raises(ZeroDivisionError), tickets.hold("fails", wanted_bytes=20 * GIB):
        raise ZeroDivisionError
    assert tickets.tickets() == []
    assert _hold_shortly(tickets, "next", 20 * GIB) == "next"


def test_step_inside_a_step_is_refused_instead_of_waiting_for_itself(
    tickets: Reservations,
) -> None:
    with (
        tickets.hold("outer", wanted_bytes=20 * GIB),
        pytest.raises(RuntimeError, match="inner reserves inside of outer"),
        tickets.hold("inner", wanted_bytes=20 * GIB),
    ):
        pass
    assert _hold_shortly(tickets, "next", GIB) == "next"


def test_ticket_can_be_read_by_a_person(tickets: Reservations, tmp_path: Path) -> None:
    with tickets.hold("build int4 of demo", wanted_bytes=3 * GIB):
        (file,) = (tmp_path / "machine").glob("*.running")
        written = json.loads(file.read_text(encoding="utf-8"))
    assert written["step"] == "build int4 of demo"
    assert written["process"] == os.getpid()
    assert written["wanted_bytes"] == 3 * GIB
    assert written["capacity_bytes"] == 20 * GIB


# ---------------------------------------------------------------- many


def over_capacity(rows: list[list[int]], capacity: int) -> list[str]:
    """Say at which instants more ran than fits, or anything beside what must be alone."""
    events = sorted([(r[0], 1, r) for r in rows] + [(r[1], 0, r) for r in rows])
    running: list[list[int]] = []
    faults = []
    for _, starts, row in events:
        if not starts:
            running.remove(row)
            continue
        running.append(row)
        if sum(each[2] for each in running) > capacity:
            faults.append(f"{sum(each[2] for each in running)} bytes")
        if len(running) > 1 and any(each[3] for each in running):
            faults.append("not alone")
    return faults


def test_check_of_the_next_test_sees_faults() -> None:
    assert over_capacity([[0, 5, 6, 0], [4, 9, 6, 0]], 10) == ["12 bytes"]
    assert over_capacity([[0, 5, 0, 1], [4, 9, 1, 0]], 10) == ["not alone"]
    assert over_capacity([[0, 4, 6, 0], [5, 9, 6, 0]], 10) == []


def test_processes_hammering_never_pass_the_capacity(tmp_path: Path) -> None:
    crowd = [python(HAMMER, str(tmp_path / "machine"), str(seed)) for seed in range(4)]
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=400)[0] for process in crowd]
    assert [process.returncode for process in crowd] == [0] * 4
    rows = [[int(word) for word in line.split()] for out in outputs for line in out.splitlines()]
    assert len(rows) == 200
    assert over_capacity(rows, 10 * GIB) == []
    beside = sum(1 for row in rows for other in rows if row[0] < other[0] < row[1])
    assert beside > 10  # else this test would pass with a lock around everything
    assert [entry.name for entry in (tmp_path / "machine").iterdir()] == ["mutex"]


# ---------------------------------------------------------------- the folder


def test_folder_is_the_users_own(tickets: Reservations, tmp_path: Path) -> None:
    with tickets.hold("step"):
        mode = stat.S_IMODE((tmp_path / "machine").stat().st_mode)
    assert os.name == "nt" or mode == 0o700


def test_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(EnvironmentUnfit, match="INGOT_MACHINE"),
        Reservations(tmp_path / "file" / "machine").hold("step"),
    ):
        pass


@pytest.mark.skipif(os.name == "nt", reason="folders have no numbered owner on Windows")
def test_folder_of_somebody_else_is_refused(
    tickets: Reservations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "machine").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(EnvironmentUnfit, match="belongs to user"), tickets.hold("step"):
        pass


def test_full_disk_is_said_and_no_ticket_is_left(
    tickets: Reservations, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(DoesNotFit, match="INGOT_MACHINE"), tickets.hold("step"):
            pass
    assert tickets.tickets() == []


def test_cleared_folder_ends_the_wait(tickets: Reservations, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool, tickets.hold("first", wanted_bytes=20 * GIB):
        second = pool.submit(_hold_shortly, tickets, "second", 20 * GIB)
        wait_until(lambda: len(tickets.tickets()) == 2, "second has a ticket")
        for file in (tmp_path / "machine").glob("000000000002-*"):
            file.unlink()
        with pytest.raises(ResourceBusy, match="ticket of second was cleared away"):
            second.result(SOON_S)


def test_what_a_task_calls_uses_the_folder_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_MACHINE", str(tmp_path / "of-its-own"))
    found = Reservations(Settings().machine / FOLDER)
    with reserve_memory(GIB, step="build"):
        assert [ticket.step for ticket in found.tickets()] == ["build"]
    with reserve_machine(step="measure speed"):
        assert [ticket.exclusive for ticket in found.tickets()] == [True]
    assert found.tickets() == []


# ---------------------------------------------------------------- how much there is


def test_system_keeps_its_reserve() -> None:
    assert usable_bytes(Memory(24 * GIB, 8 * GIB)) == 8 * GIB - RESERVE_BYTES


def test_small_machine_has_half_of_what_is_free() -> None:
    assert usable_bytes(Memory(24 * GIB, GIB)) == GIB // 2


def test_bound_of_a_container_bounds_what_may_be_had(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{6 * GIB}\n")
    (tmp_path / "memory.current").write_text("0\n")
    (tmp_path / "memory.stat").write_text("anon 0\n")
    assert usable_bytes(bounded(Memory(24 * GIB, 20 * GIB), tmp_path)) == 4 * GIB


# ---------------------------------------------------------------- claims


def test_claim_is_seen_while_it_is_held_and_gone_after(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    with claims.mutex():
        lock = claims.take("mine")
    assert claims.is_held("mine")
    assert claims.names() == {"mine"}
    claims.give_back("mine", lock)
    assert not claims.is_held("mine")
    assert not claims.is_held("never")
