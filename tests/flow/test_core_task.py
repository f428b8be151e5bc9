"""Caching, locking and retrying, on a real Prefect server and with real processes.

Other processes import this module by its name, so `build` and what it needs are plain functions.
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.locking.protocol import LockManager
from prefect.settings import PREFECT_API_URL

from flows.runners import prepare_cluster
from tasks.core import errors
from tasks.core.locks import KernelLocks
from tasks.core.records import Measurement, Precision, Quantisation, Recipe, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.core.store import MANIFEST, Store
from tasks.core.task import LOCKS, RETRIES, KernelLockManager, cached, key_of, record_storage

pytestmark = pytest.mark.flow

DIGEST, OTHER = "a" * 64, "b" * 64
INT4 = Recipe(precision=Precision.INT4)


# ---------------------------------------------------------------- the flow under test


def a_variant(digest: str, made: str) -> Variant:
    return Variant(
        checkpoint_digest=digest,
        recipe=INT4,
        digest=made,
        toolchain="test",
        size_bytes=1,
        quantisation=Quantisation(
            bits={4: 24, 8: 1}, block_sizes={32: 25}, symmetric=True, embedding_bits=16
        ),
        context_length=512,
        eos_token_ids=[2],
        build_seconds=1.5,
        build_cpu_s=1.0,
        build_peak_rss_bytes=1,
    )


@task(name="build thing", **cached(lambda inputs: [inputs["digest"], INT4]))
def build_thing(digest: str, diary: Path, gate: Path | None) -> Variant:
    with diary.open("a") as stream:
        stream.write(f"built by {os.getpid()}\n")
    while gate and not gate.exists():
        time.sleep(0.05)
    store = store_of(Settings())
    with store.staging() as staged:
        (staged / "model.onnx").write_text(digest)
        return a_variant(digest, store.publish(staged))


@flow(name="build")
def build_flow(digest: str, diary: Path, gate: Path | None) -> tuple[str, Variant]:
    here = build_thing.with_options(result_storage=record_storage(Settings()))
    state = here(digest, diary, gate, return_state=True)
    return state.name, state.result()


def build(diary: Path, digest: str = DIGEST, gate: Path | None = None) -> tuple[str, Variant]:
    return build_flow(digest, diary, gate)


@task(name="stumble", **cached(lambda inputs: [inputs["kind"]]))
def stumble(kind: str, times: int, diary: Path) -> Measurement:
    with diary.open("a") as stream:
        stream.write("tried\n")
    if len(lines(diary)) <= times:
        raise getattr(errors, kind)("planted", next_step="none")
    return Measurement(value=1.0)


@flow(name="stumbling")
def stumbling_flow(kind: str, times: int, diary: Path) -> tuple[str, object]:
    here = stumble.with_options(retry_delay_seconds=0, result_storage=Settings().records)
    state = here(kind, times, diary, return_state=True)
    return state.name, state.result(raise_on_failure=False)


def stumbling(kind: str, times: int, diary: Path) -> tuple[str, object]:
    return stumbling_flow(kind, times, diary)


def lines(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


# ---------------------------------------------------------------- other processes

BUILD = """
import sys
from pathlib import Path
from test_core_task import build
print("started", flush=True)
print(build(Path(sys.argv[1]), gate=Path(sys.argv[2]))[0], flush=True)
"""

KEY = """
from test_core_task import INT4
from tasks.core.task import key_of
print(key_of("build thing", ["digest", [INT4], {"b": 1, "a": 2}]))
"""


@contextmanager
def python(code: str, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    search_path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": search_path, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(claim: Callable[[], object], seconds: float = 120) -> bool:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        if claim():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


@pytest.fixture
def server(prefect_server: None, ingot_home: Path, tmp_path: Path) -> dict[str, str]:
    """Environment in which another process meets the same server and the same home."""
    return {
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }


def only_record() -> Path:
    (record,) = Settings().records.glob("build-thing-*")
    return record


def report_acquires(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give a list that grows by the holder's name as soon as somebody asks for a lock."""
    acquire, holders = KernelLocks.acquire, []

    def reporting(self: KernelLocks, key: str, holder: str, timeout_s: float | None = None) -> bool:
        holders.append(holder)
        return acquire(self, key, holder, timeout_s)

    monkeypatch.setattr(KernelLocks, "acquire", reporting)
    return holders


# ---------------------------------------------------------------- caching


@pytest.mark.usefixtures("server")
def test_second_run_is_cached_and_gives_the_same_record(diary: Path) -> None:
    first = build(diary)
    assert first[0] == "Completed"
    assert build(diary) == ("Cached", first[1])
    assert len(lines(diary)) == 1


@pytest.mark.usefixtures("server")
def test_another_digest_runs_again(diary: Path) -> None:
    assert build(diary, DIGEST)[0] == build(diary, OTHER)[0] == "Completed"
    assert build(diary, DIGEST)[0] == build(diary, OTHER)[0] == "Cached"
    assert len(lines(diary)) == 2


@pytest.mark.usefixtures("server")
def test_input_that_decides_nothing_is_no_part_of_the_key(diary: Path, tmp_path: Path) -> None:
    build(diary)
    assert build(tmp_path / "another diary")[0] == "Cached"


def lose_object(variant: Variant) -> None:
    Store(Settings().store).discard(variant.digest)


def lose_manifest(variant: Variant) -> None:
    (Store(Settings().store).path(variant.digest) / MANIFEST).unlink()


def truncate_object(variant: Variant) -> None:
    model = Store(Settings().store).path(variant.digest) / "model.onnx"
    model.chmod(0o644)
    model.write_text(variant.checkpoint_digest[:-1])


def truncate_record(_: Variant) -> None:
    only_record().write_bytes(only_record().read_bytes()[:-40])


def outdate_record(_: Variant) -> None:
    text = only_record().read_text()
    assert "embedding_bits" in text
    only_record().write_text(text.replace("embedding_bits", "a_field_of_last_year"))


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "damage", [lose_object, lose_manifest, truncate_object, truncate_record, outdate_record]
)
def test_hit_that_is_not_whole_runs_again_and_heals(
    diary: Path, damage: Callable[[Variant], None]
) -> None:
    _, variant = build(diary)
    damage(variant)
    assert build(diary) == ("Completed", variant)
    assert Store(Settings().store).is_intact(variant.digest, deep=True)
    assert build(diary) == ("Cached", variant)
    assert len(lines(diary)) == 2


@pytest.mark.usefixtures("server")
def test_hollow_record_is_dropped_wherever_the_flow_keeps_its_results(
    diary: Path, tmp_path: Path
) -> None:
    elsewhere = build_flow.with_options(result_storage=tmp_path / "elsewhere")
    _, variant = elsewhere(DIGEST, diary, None)
    lose_object(variant)
    assert elsewhere(DIGEST, diary, None)[0] == "Completed"
    assert elsewhere(DIGEST, diary, None)[0] == "Cached"


@pytest.mark.usefixtures("server")
def test_records_behind_a_url_are_found_by_another_machine_dropped_and_made_again(
    diary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INGOT_SHARED", f"memory://{tmp_path.name}")
    prepare_cluster(Settings())
    _, variant = build(diary)
    monkeypatch.setenv("INGOT_HOME", str(tmp_path / "another machine"))
    assert build(diary) == ("Cached", variant)
    store_of(Settings()).discard(variant.digest)
    assert build(diary) == ("Completed", variant)
    assert build(diary) == ("Cached", variant)
    assert len(lines(diary)) == 2


@pytest.mark.usefixtures("server")
def test_hollow_record_that_another_process_drops_first_does_no_harm(
    diary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, variant = build(diary)
    lose_object(variant)
    key = only_record().name
    LOCKS.acquire_lock(key, "another process")
    waits = report_acquires(monkeypatch)
    run = threading.Thread(target=build, args=(diary,))
    run.start()
    assert wait_until(lambda: waits)
    only_record().unlink()
    LOCKS.release_lock(key, "another process")
    run.join(60)
    assert build(diary)[0] == "Cached"


# ---------------------------------------------------------------- retrying


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("kind", ["ChildKilled", "ChildTimedOut", "ResourceBusy"])
def test_transient_fault_is_retried_and_heals(diary: Path, kind: str) -> None:
    assert stumbling(kind, 1, diary) == ("Completed", Measurement(value=1.0))
    assert len(lines(diary)) == 2


@pytest.mark.usefixtures("server")
def test_transient_fault_that_stays_fails_after_the_retries(diary: Path) -> None:
    name, problem = stumbling("ChildKilled", 9, diary)
    assert name == "Failed"
    assert isinstance(problem, errors.ChildKilled)
    assert len(lines(diary)) == 1 + RETRIES


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "kind", ["InputError", "CheckpointRefused", "DoesNotFit", "ToolFailed", "VariantUnusable"]
)
def test_lasting_fault_is_tried_once_and_keeps_its_parts(diary: Path, kind: str) -> None:
    name, problem = stumbling(kind, 1, diary)
    assert name == "Failed"
    assert type(problem).__name__ == kind
    assert problem.to_fields()["next_step"] == "none"
    assert len(lines(diary)) == 1


@pytest.mark.usefixtures("server")
def test_failure_is_not_cached_and_frees_the_lock(diary: Path) -> None:
    assert stumbling("ToolFailed", 1, diary)[0] == "Failed"
    assert stumbling("ToolFailed", 1, diary)[0] == "Completed"
    assert len(lines(diary)) == 2


# ---------------------------------------------------------------- several processes


def test_two_processes_at_once_build_once(
    diary: Path, tmp_path: Path, server: dict[str, str]
) -> None:
    gate = tmp_path / "gate"
    with python(BUILD, diary, gate, **server) as one, python(BUILD, diary, gate, **server) as two:
        assert [process.stdout.readline() for process in (one, two)] == ["started\n"] * 2
        assert wait_until(lambda: lines(diary))
        built_twice = wait_until(lambda: len(lines(diary)) > 1, seconds=3)
        gate.touch()
        names = [process.communicate(timeout=120)[0].strip() for process in (one, two)]
    assert not built_twice
    assert sorted(names) == ["Cached", "Completed"]
    assert len(lines(diary)) == 1


def test_killed_lock_holder_does_not_hang_the_next_run(
    diary: Path, tmp_path: Path, server: dict[str, str]
) -> None:
    with python(BUILD, diary, tmp_path / "never", **server) as holder:
        assert wait_until(lambda: lines(diary))
        waiter = python(BUILD, diary, tmp_path / "gate", **server)
        with waiter as heir:
            assert heir.stdout.readline() == "started\n"
            holder.kill()
            assert wait_until(lambda: len(lines(diary)) == 2)
            (tmp_path / "gate").touch()
            assert heir.communicate(timeout=120)[0].strip() == "Completed"
    assert build(diary)[0] == "Cached"


def test_threads_at_once_build_once(diary: Path, tmp_path: Path, server: dict[str, str]) -> None:
    gate, names = tmp_path / "gate", []
    threads = [
        threading.Thread(target=lambda: names.append(build(diary, gate=gate)[0])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: lines(diary))
    time.sleep(1)
    gate.touch()
    for thread in threads:
        thread.join(300)
    assert sorted(names) == ["Cached", "Cached", "Completed"]
    assert len(lines(diary)) == 1


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("seed", ["1", "2"])
def test_key_is_the_same_in_every_process(seed: str) -> None:
    with python(KEY, PYTHONHASHSEED=seed, PREFECT_LOGGING_LEVEL="ERROR") as process:
        key = process.communicate(timeout=60)[0].strip()
    assert key == key_of("build thing", ["digest", [INT4], {"a": 2, "b": 1}])


def test_key_is_a_readable_file_name() -> None:
    name, _, digest = key_of("Stage in Foundry Local", []).rpartition("-")
    assert name == "stage-in-foundry-local"
    assert len(digest) == 64


def test_key_depends_on_name_and_on_every_part() -> None:
    keys = {
        key_of("build", [DIGEST, INT4]),
        key_of("examine", [DIGEST, INT4]),
        key_of("build", [OTHER, INT4]),
        key_of("build", [DIGEST, INT4.model_copy(update={"block_size": 64})]),
        key_of("build", [DIGEST, [INT4]]),
        key_of("build", [DIGEST]),
    }
    assert len(keys) == 6


@pytest.mark.parametrize("part", [{"a", "b"}, Path("model"), object()])
def test_part_without_one_meaning_is_refused(part: object) -> None:
    with pytest.raises(TypeError, match="expected plain JSON or a record"):
        key_of("build", [part])


# ---------------------------------------------------------------- Prefect's lock protocol


@pytest.mark.usefixtures("ingot_home")
def test_lock_manager_is_one_object_in_a_process_and_a_fresh_one_in_another() -> None:
    manager = KernelLockManager()
    assert isinstance(manager, LockManager)
    assert copy.deepcopy(manager) is manager
    manager.acquire_lock("key", "me")
    twin = pickle.loads(pickle.dumps(manager))
    assert not twin.is_lock_holder("key", "me")
    assert not twin.acquire_lock("key", "you", acquire_timeout=0)
    manager.release_lock("key", "me")


@pytest.mark.usefixtures("ingot_home")
def test_waiting_for_a_lock_ends_with_its_timeout_or_its_release() -> None:
    manager = KernelLockManager()
    manager.acquire_lock("key", "me")
    assert not manager.wait_for_lock("key", timeout=0.1)
    manager.release_lock("key", "me")
    assert manager.wait_for_lock("key", timeout=0.1)
    assert not manager.is_locked("key")


@pytest.mark.usefixtures("ingot_home")
def test_many_may_wait_for_one_lock() -> None:
    manager = KernelLockManager()
    manager.acquire_lock("key", "me")
    answers: list[bool] = []
    waiters = [
        threading.Thread(target=lambda: answers.append(manager.wait_for_lock("key", 60)))
        for _ in range(8)
    ]
    for waiter in waiters:
        waiter.start()
    manager.release_lock("key", "me")
    for waiter in waiters:
        waiter.join(60)
    assert answers == [True] * 8


@pytest.mark.usefixtures("ingot_home")
def test_asynchronous_face_takes_the_same_lock() -> None:
    manager = KernelLockManager()

    async def take_and_wait() -> tuple[bool, bool]:
        return await manager.aacquire_lock("key", "me"), await manager.await_for_lock("key", 0.1)

    assert asyncio.run(take_and_wait()) == (True, False)
    assert manager.is_lock_holder("key", "me")
