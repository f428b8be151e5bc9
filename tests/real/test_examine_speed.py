"""Speed is measured by real workers, interleaved, and none of them outlives its measurement."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tasks.core.errors import VariantUnusable
from tasks.core.fairness import is_different
from tasks.core.records import Precision, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.protocol import Protocol, Scenario, TimingPlan
from tasks.examine.speed import lanes, loading, schedule
from tasks.examine.speed.lanes import Lane, workers_of
from tasks.examine.speed.machine import Weather, during
from tasks.examine.speed.measure import SpeedEvidence, SpeedRequest, TimedVariant, measure_speed
from tests.examine_subjects import admitted, build_folders, publish
from tests.tiny_models import write_tiny_checkpoint

pytestmark = pytest.mark.real

CHAT = Scenario(name="chat", prompt_tokens=24, new_tokens=40)
BRIEF = Scenario(name="short", prompt_tokens=8, new_tokens=8)
PLAN = TimingPlan(
    scenarios=(BRIEF, CHAT),
    long_tokens=0,
    launches=2,
    rounds=3,
    warmups=1,
    lengths=(8, 16, 32, 64, 4096),
)
PROTOCOL = Protocol(timing=PLAN, bootstrap_samples=300)


TO_BASE = {"speed.ttft_ratio", "speed.decode_time_ratio", "speed.cpu_ratio"}


@dataclass(frozen=True)
class Built:
    """Variants of a tiny checkpoint in a store."""

    settings: Settings
    folders: dict[str, Path]
    variants: dict[str, Variant]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    scratch = tmp_path_factory.mktemp("speed")
    checkpoint = admitted(write_tiny_checkpoint(scratch / "checkpoint"))
    settings = Settings(home=scratch / "home")
    folders = build_folders(checkpoint.path, scratch, int4="int4", int8="int8", fp16="fp16")
    variants = {
        name: publish(folder, Precision(name), checkpoint, settings)
        for name, folder in folders.items()
    }
    return Built(settings, folders, variants)


@pytest.fixture(scope="module")
def speed(built: Built) -> SpeedEvidence:
    """Measure two variants once, for the tests that look at what came out."""
    wanted = [built.variants["int4"], built.variants["int8"]]
    said: list[str] = []
    found = measure_speed(wanted, protocol=PROTOCOL, settings=built.settings, say=said.append)
    assert any("launch 2/2, round 3/3" in line for line in said)
    return found


def frame(built: Built, speed: SpeedEvidence, name: str) -> pd.DataFrame:
    folder = Store(built.settings.store).path(speed.objects()[0])
    return pd.read_parquet(folder / f"{name}.parquet")


def timed(built: Built, *names: str) -> list[TimedVariant]:
    return [
        TimedVariant(
            digest=built.variants[name].digest,
            precision=Precision(name),
            folder=built.folders[name],
            size_bytes=1,
        )
        for name in names
    ]


def test_all_variants_are_timed_in_every_round_and_one_of_them_twice(
    built: Built, speed: SpeedEvidence
) -> None:
    int4, int8 = speed.evidence
    assert [int4.subject, int8.subject] == [
        built.variants[name].digest for name in ("int4", "int8")
    ]
    assert int4.metrics["speed.cpu_cores"].n == 6
    assert int4.metrics["speed.aa_ratio"] == int8.metrics["speed.aa_ratio"]
    for name in TO_BASE:
        assert not int4.metrics[name].applies
        assert int8.metrics[name].value
    rows = frame(built, speed, "samples")
    runs = rows[rows["phase"] == "run"]
    in_rounds = runs.groupby(["launch", "round", "case_id"])["lane"].agg(sorted)
    assert list(in_rounds) == [["control", "int4", "int8"]] * 12


def test_everything_is_measured_but_what_this_machine_or_model_has_not(
    speed: SpeedEvidence,
) -> None:
    metrics = speed.evidence[0].metrics
    absent = {name for name, found in metrics.items() if found.value is None}
    may_be_absent = {"energy.joules_per_token", "speed.load_cold_s"}
    to_champion = {"speed.ttft_to_champion", "speed.decode_to_champion"}
    assert absent - may_be_absent == to_champion | TO_BASE
    assert not any(metrics[name].applies for name in absent)
    zero = {name for name, found in metrics.items() if found.value == 0}
    assert zero <= {"speed.aa_different", "speed.contended"}


def test_memory_grows_with_the_room_of_the_cache_by_what_it_must(speed: SpeedEvidence) -> None:
    metrics = {name: found.value or 0 for name, found in speed.evidence[0].metrics.items()}
    load, peak = metrics["memory.load_peak_rss_bytes"], metrics["memory.peak_rss_bytes"]
    assert 20e6 < load < 1e9
    assert 20e6 < peak <= metrics["memory.peak_rss_full_context_bytes"] < 1e9
    if sys.platform == "linux":
        assert metrics["memory.anon_bytes"] + metrics["memory.file_bytes"] <= peak
        # 2 layers, keys and values of 2 heads of 16 in FP32; pages and scraps are worth as much.
        assert 0.5 * 512 < metrics["memory.kv_bytes_per_token"] < 4 * 512


def test_every_length_is_on_a_curve(built: Built, speed: SpeedEvidence) -> None:
    table = frame(built, speed, "latency")
    assert table.groupby("lane")["n"].agg(list).to_dict() == {
        "int4": [8, 16, 32, 64],
        "int8": [8, 16, 32, 64],
    }
    assert (table["fit_s"] > 0).all()


def test_rows_say_what_the_machine_did_meanwhile(built: Built, speed: SpeedEvidence) -> None:
    rows = frame(built, speed, "samples")
    assert rows["contended"].dtype == bool
    for column in ("loadavg1", "steal_pct", "tokenize_s", "cpu_prefill_s", "cpu_decode_s"):
        assert rows[column].notna().all()
    gaps = rows.loc[rows["case_id"] == "chat", "itl"]
    assert set(map(len, gaps)) == {CHAT.new_tokens - 1}


def test_spent_budget_ends_the_rounds_but_not_below_the_least(built: Built) -> None:
    plan = PLAN.model_copy(
        update={"launches": 3, "rounds": 9, "least_rounds": 2, "budget_s": 0.001}
    )
    speed = measure_speed(
        [built.variants["int4"]], protocol=Protocol(timing=plan), settings=built.settings
    )
    metrics = speed.evidence[0].metrics
    assert metrics["speed.cpu_cores"].n == 4
    assert "too dear for the budget, not timed: short" in speed.evidence[0].notes
    assert "speed.short.ttft_s" not in metrics
    assert metrics["speed.itl_p50_s"].value is None  # 156 gaps


def test_champion_is_timed_beside_the_variants(built: Built, tmp_path: Path) -> None:
    champion = timed(built, "int8")[0]
    plan = PLAN.model_copy(update={"scenarios": (BRIEF,), "lengths": (), "rounds": 2})
    request = SpeedRequest(
        frames=tmp_path,
        variants=timed(built, "int4"),
        champion=champion,
        protocol=Protocol(timing=plan, bootstrap_samples=200),
    )
    metrics = schedule.examine(request).evidence[0].metrics
    assert (metrics["speed.ttft_to_champion"].value or 0) > 0
    assert metrics["speed.decode_to_champion"].n == 4
    lanes_seen = set(pd.read_parquet(tmp_path / "samples.parquet")["lane"])
    assert lanes_seen == {"int4", "control", "champion"}


def test_variants_that_do_not_fit_side_by_side_are_timed_one_at_a_time(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "fit_side_by_side", lambda lanes: False)
    plan = PLAN.model_copy(update={"scenarios": (BRIEF,), "lengths": ()})
    speed = schedule.examine(
        SpeedRequest(
            frames=tmp_path,
            variants=timed(built, "int4", "int8"),
            protocol=Protocol(timing=plan, bootstrap_samples=200),
        )
    )
    assert [part.metrics["speed.cpu_cores"].n for part in speed.evidence] == [6, 6]
    assert speed.evidence[1].metrics["speed.cpu_ratio"].n == 6


def test_sleep_in_the_decode_loop_is_seen_and_the_control_stays_fair(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sleepy_worker.py").write_text(f"""
import sys, time
from pathlib import Path
from tasks.examine.speed import worker
honest = worker._next_token
def sleepy(*arguments):
    time.sleep(0.005)
    honest(*arguments)
if Path(sys.argv[1]) == Path({str(built.folders["int8"])!r}):
    worker._next_token = sleepy
worker.run(Path(sys.argv[1]), *sys.argv[2:])
""")
    monkeypatch.setattr(lanes, "WORKER", "sleepy_worker")
    monkeypatch.setenv("PYTHONPATH", f"{slow}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    plan = PLAN.model_copy(update={"scenarios": (BRIEF,), "lengths": (), "rounds": 8})
    request = SpeedRequest(
        frames=tmp_path,
        variants=timed(built, "int4", "int8"),
        protocol=Protocol(timing=plan, bootstrap_samples=300),
    )
    metrics = schedule.examine(request).evidence[1].metrics
    assert (metrics["speed.decode_time_ratio"].value or 0) > 2
    assert is_different(metrics["speed.decode_time_ratio"])
    assert not is_different(metrics["speed.aa_decode_ratio"])


@contextmanager
def busy_neighbours() -> Iterator[None]:
    """Keep twice as many processes running as there are processors."""
    code = "while True: pass"
    count = 2 * (psutil.cpu_count() or 1)
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_busy_neighbours_mark_the_runs(built: Built) -> None:
    with workers_of([Lane("int4", "4" * 64, built.folders["int4"])]) as [worker], busy_neighbours():
        seen = []
        for _ in range(20):
            before = Weather.now()
            run = worker.run(range(1, 129), 32)
            cores = (run["cpu_ttft_s"] + run["cpu_decode_s"]) / run["e2e_s"]
            seen.append(during(before, Weather.now(), cores)["contended"])
    assert sum(seen) > 10


def test_variant_that_cannot_decode_ends_the_measurement(built: Built) -> None:
    with pytest.raises(VariantUnusable, match="worker of fp16 ended with code 1"):
        measure_speed([built.variants["fp16"]], protocol=PROTOCOL, settings=built.settings)


def test_nothing_to_time_is_no_error(built: Built) -> None:
    assert measure_speed([], protocol=PROTOCOL, settings=built.settings).evidence == []


def test_worker_takes_session_options_over_the_folders(built: Built) -> None:
    def threads(**options: object) -> int:
        lane = Lane("int4", "4" * 64, built.folders["int4"], session_options=dict(options))
        with workers_of([lane]) as [worker]:
            return psutil.Process(worker._process.pid).num_threads()

    assert threads(intra_op_num_threads=3) == threads(intra_op_num_threads=1) + 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can drop a file from its cache")
def test_files_are_gone_from_the_page_cache_once_dropped(built: Built, tmp_path: Path) -> None:
    folder = shutil.copytree(built.folders["int4"], tmp_path / "copy")
    reason = loading.drop_from_page_cache(folder)
    if reason:  # a file system in memory: then it is told
        assert "stayed in the page cache" in reason
        return
    data = folder / "model.onnx.data"
    assert loading.cached_bytes(data) == 0
    data.read_bytes()
    assert loading.cached_bytes(data) >= data.stat().st_size


def is_gone(pid: int) -> bool:
    # A container's first process may never reap the orphans that it inherits.
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_worker_leaves_when_its_starter_is_killed(built: Built) -> None:
    starter = f"""
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-m", "tasks.examine.speed.worker",
                           {str(built.folders["int4"])!r}],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(worker.pid, worker.stdout.readline(), flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, _, ready = parent.stdout.readline().partition(" ")
    assert json.loads(ready)["load_peak_rss_bytes"] > 0
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while not is_gone(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(int(pid))
