"""Disks that are full or read-only, checkpoints that change, and releases that want the same."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import EnvironmentUnfit, InputError
from tasks.core.housekeeping import clear_leftovers
from tasks.core.settings import Settings
from tasks.foundry import ledger
from tests.faults import disks, look
from tests.faults.bench import Bench
from tests.faults.chain import Fault, struck_and_resumed
from tests.faults.kills import BUILD
from tests.faults.points import Point, at_read, at_write, in_child, of_step
from tests.faults.runs import Champion, Run, wait_for
from tests.faults.table import Row
from tests.faults.workshop import Scene, scenario

UNFIT = EnvironmentUnfit.exit_code
DISK_MIB = 1024  # less is refused before anything is begun


def _refused(run: Run, *words: str) -> list[str]:
    """Check that a run ended as the environment's fault, and said which."""
    code, said = run.end(), run.output()
    problems = [f"exit code {code} instead of {UNFIT}: {said}"] if code != UNFIT else []
    if "Traceback" in said:
        problems.append(f"a traceback instead of a message: {said}")
    if not any(word in said for word in words):
        problems.append(f"no word of {' or '.join(words)}: {said}")
    return problems


def _filled(bench: Bench, run: Run, pid: int) -> str:
    disks.fill(bench.home)
    run.go_on(pid)
    bench.problems += _refused(run, "No space left", "disk")
    disks.empty(bench.home)
    return ""


def _made_read_only(bench: Bench, run: Run, pid: int) -> str:
    with disks.read_only(bench.home / "store"):
        run.go_on(pid)
        bench.problems += _refused(run, "Read-only", "read-only")
    return ""


def _full(point: Point, step: str) -> Fault:
    outcome = "exit code 4, the disk is named; with room again it goes on"
    return Fault("disk full", point, step, _filled, outcome)


@scenario
def disk_full(scene: Scene) -> None:
    with disks.small_disk(scene.folder / "bench" / "home", DISK_MIB):
        bench = scene.bench()
        bench.forget_build("int4")
        build, register = "build int4", "register champion"
        faults = [
            _full(of_step("admit checkpoint", "finished"), "admit checkpoint"),
            _full(in_child(build, BUILD, "building the"), build),
            _full(at_write(f"{build}, its record half-written", r"/records/.*build"), build),
            _full(of_step(register, "started"), register),
            _full(at_write(f"{register}, the ledger half-written", r"/ledger/"), register),
            _full(of_step("write report", "started"), "write report"),
        ]
        struck_and_resumed(bench, faults, scene.warm.champion, scene.tell)
        # The first has one begin without room, the second falls into one, the third loses the
        # record of one.
        bench.require_builds({"int4": 4})


@scenario
def read_only_store(scene: Scene) -> None:
    with disks.small_disk(scene.folder / "bench" / "home", DISK_MIB):
        bench = scene.bench()
        bench.forget_build("int4")
        outcome = "exit code 4, the store is named; writable again it goes on"
        faults = [
            Fault("read-only store", of_step(step, "started"), done, _made_read_only, outcome)
            for step, done in (("read request", "check environment"), ("build int4", "build int4"))
        ]
        struck_and_resumed(bench, faults, scene.warm.champion, scene.tell)
        # Where it is built is in the store, so a child is not even begun.
        bench.require_builds({"int4": 1})


@scenario
def two_identical_releases_at_once(scene: Scene) -> None:
    bench = scene.bench()
    bench.forget_build("int4")
    first, second = bench.release(), bench.release()
    assert Champion.of(first.outcome()) == scene.warm.champion
    bench.require_champion(second, scene.warm.champion, "two at once")
    bench.require_builds({"int4": 1})
    entries = ledger.history_of(Settings(home=bench.home), "demo")
    assert len(entries) == 1, entries
    scene.tell(Row("two identical releases", "at once", "one build, one champion", None))


@scenario
def one_of_two_identical_releases_is_killed(scene: Scene) -> None:
    bench = scene.bench()
    bench.forget_build("int4")
    first = bench.release(in_child("build int4", BUILD, "building the"))
    first.reach()
    second = bench.start(*first.command)
    waits = "wait for build-variant"
    wait_for(lambda: _said(bench, waits, "started"), "the second release to wait for the first")
    first.kill()
    killed_at = time.time()
    assert Champion.of(second.outcome()) == scene.warm.champion
    bench.look("the first of two was killed")
    bench.require_builds({"int4": 2})
    # The second began while the first lived, so what it left is for the next run to clear away.
    clear_leftovers(Settings(home=bench.home))
    bench.problems += look.nothing_left_over(bench.home)
    seconds = (bench.finished_at("build int4", killed_at) or time.time()) - killed_at
    point = "build int4, while a second release waits for it"
    scene.tell(Row("kill -9 of the flow", point, "the second builds it", seconds))


@scenario
def checkpoint_changes_while_it_is_read(scene: Scene) -> None:
    bench = scene.bench()
    _with_own_checkpoint(bench)
    step = "admit checkpoint"
    # The first time its header is read; what is compared at the end is noted after that.
    point = at_read(f"{step}, while weights are read", r"/model\.safetensors$", step, nth=2)
    run = bench.release(point)
    pid = run.reach()
    with _other_weights(bench):
        changed_at = time.time()
        run.go_on(pid)
        wait_for(lambda: _said(bench, step, "failed"), f"{step} to notice the change")
    bench.require_champion(run, scene.warm.champion, f"a change during {step}")
    bench.require_builds({})
    seconds = (bench.finished_at(step, changed_at) or time.time()) - changed_at
    outcome = "noticed, and read again by the same run"
    scene.tell(Row("checkpoint changes", point.name, outcome, seconds))


@scenario
def checkpoint_changes_while_it_is_built(scene: Scene) -> None:
    bench = scene.bench()
    _with_own_checkpoint(bench)
    bench.forget_build("int4")
    point = in_child("build int4", BUILD, "starting Olive")
    outcome = "exit code 2, nothing published; with the old bytes it goes on"
    fault = Fault("checkpoint changes", point, "build int4", _changed, outcome)
    struck_and_resumed(bench, [fault], scene.warm.champion, scene.tell)
    bench.require_builds({"int4": 2})


def _with_own_checkpoint(bench: Bench) -> None:
    shutil.copytree(bench.checkpoint, bench.folder / "checkpoint")
    bench.checkpoint = bench.folder / "checkpoint"


@contextmanager
def _other_weights(bench: Bench) -> Iterator[None]:
    weights = bench.checkpoint / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + bytes(4))
    try:
        yield
    finally:
        weights.write_bytes(kept)


def _changed(bench: Bench, run: Run, pid: int) -> str:
    with _other_weights(bench):
        run.go_on(pid)
        code = run.end()
    if code != InputError.exit_code or "changed" not in run.output():
        bench.problems.append(f"the checkpoint changed: exit code {code}: {run.output()}")
    bench.problems += _objects_of_other_bytes(bench)
    return ""


def _objects_of_other_bytes(bench: Bench) -> list[str]:
    """A build from changed weights must not be in the store."""
    objects: Path = bench.home / "store" / "objects"
    new = [entry.name[:12] for entry in objects.iterdir() if entry.stat().st_mtime > bench.began_at]
    return [f"published: {name}" for name in new]


def _said(bench: Bench, step: str, state: str) -> bool:
    return any(
        entry["kind"] == "step" and entry["step"] == step and entry["state"] == state
        for entry in bench.meeting.entries()
    )
