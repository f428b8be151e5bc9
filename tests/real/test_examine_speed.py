"""Speed is measured by real workers, interleaved, and none of them outlives its measurement."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tasks.core.errors import VariantUnusable
from tasks.core.records import Precision, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine import speed_child
from tasks.examine.protocol import Protocol, TimingPlan
from tasks.examine.speed import measure_speed
from tests.examine_subjects import admitted, build_folders, publish
from tests.tiny_models import write_tiny_checkpoint

pytestmark = pytest.mark.real

PLAN = TimingPlan(prompt_tokens=24, new_tokens=8, launches=2, rounds=3, warmups=1)
PROTOCOL = Protocol(timing=PLAN, bootstrap_samples=300)


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


def test_all_variants_are_timed_in_every_round_and_one_of_them_twice(built: Built) -> None:
    wanted = [built.variants["int4"], built.variants["int8"]]
    said: list[str] = []
    speed = measure_speed(wanted, protocol=PROTOCOL, settings=built.settings, say=said.append)

    assert [part.subject for part in speed.evidence] == [variant.digest for variant in wanted]
    int4, int8 = (part.metrics for part in speed.evidence)
    assert int4["speed.decode_tokens_per_s"].n == 6
    assert int4["speed.aa_ratio"] == int8["speed.aa_ratio"]
    assert set(int8) - set(int4) == {
        "speed.ttft_ratio",
        "speed.decode_time_ratio",
        "speed.cpu_ratio",
    }
    for metrics in (int4, int8):
        assert all((found.value or 0) > 0 for found in metrics.values())
        load, peak = metrics["memory.load_peak_rss_bytes"], metrics["memory.peak_rss_bytes"]
        assert 20e6 < (load.value or 0) <= (peak.value or 0) < 1e9

    assert len(speed.objects()) == 1
    rows = pd.read_parquet(Store(built.settings.store).path(speed.objects()[0]) / "samples.parquet")
    in_rounds = rows[rows["phase"] == "run"].groupby(["launch", "round"])["lane"].agg(sorted)
    assert list(in_rounds) == [["control", "int4", "int8"]] * 6
    assert any("launch 2/2, round 3/3" in line for line in said)


def test_spent_budget_ends_the_rounds_but_not_below_the_least(built: Built) -> None:
    plan = TimingPlan(prompt_tokens=8, new_tokens=4, launches=3, least_rounds=2, budget_s=0.001)
    speed = measure_speed(
        [built.variants["int4"]], protocol=Protocol(timing=plan), settings=built.settings
    )
    assert speed.evidence[0].metrics["speed.ttft_s"].n == 4


def test_variants_that_do_not_fit_side_by_side_are_timed_one_at_a_time(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_child, "_fit_side_by_side", lambda lanes: False)
    timed = [
        speed_child.TimedVariant(
            digest=built.variants[name].digest,
            precision=Precision(name),
            folder=built.folders[name],
            size_bytes=1,
        )
        for name in ("int4", "int8")
    ]
    plan = TimingPlan(prompt_tokens=8, new_tokens=4, launches=2, rounds=3)
    speed = speed_child.examine(
        speed_child.SpeedRequest(
            frames=tmp_path, variants=timed, protocol=Protocol(timing=plan, bootstrap_samples=200)
        )
    )
    assert [part.metrics["speed.ttft_s"].n for part in speed.evidence] == [6, 6]
    assert speed.evidence[1].metrics["speed.cpu_ratio"].n == 6


def test_variant_that_cannot_decode_ends_the_measurement(built: Built) -> None:
    with pytest.raises(VariantUnusable, match="worker of fp16 ended with code 1"):
        measure_speed([built.variants["fp16"]], protocol=PROTOCOL, settings=built.settings)


def test_nothing_to_time_is_no_error(built: Built) -> None:
    assert measure_speed([], protocol=PROTOCOL, settings=built.settings).evidence == []


def is_gone(pid: int) -> bool:
    # A container's first process may never reap the orphans that it inherits.
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_worker_leaves_when_its_starter_is_killed(built: Built) -> None:
    starter = f"""
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-m", "tasks.examine.timing_worker",
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
