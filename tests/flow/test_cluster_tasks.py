"""A task on its way to a worker: what is shared, what is fetched, which workers are refused.

No cluster here: the worker is this process with another home. Real ones are in tests/cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from prefect.client.schemas.objects import State
from prefect.filesystems import RemoteFileSystem
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from flows import remote_tasks, runners
from flows.remote_tasks import Dispatch, WorkOrder, at_worker, on_worker
from flows.runners import ClusterRunner, prepare_cluster, runner_of
from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.errors import EnvironmentUnfit, InputError, ResourceBusy, ToolMissing
from tasks.core.progress import step
from tasks.core.questions import load_question_file, load_questions, questions_digest
from tasks.core.records import Checkpoint, Environment, QuestionFile, Record
from tasks.core.settings import Settings
from tasks.core.shared_objects import shared_url
from tasks.core.shared_store import records_block, store_of
from tasks.core.task import record_storage
from tasks.environment.check import machine_class
from tasks.variants.task import build_variant

pytestmark = pytest.mark.flow


class Seen(Record):
    """What a step was given."""

    checkpoint: Path
    questions: Path
    count: int


def look(checkpoint: Checkpoint, questions: QuestionFile) -> Seen:
    with step("look") as say:
        count = len(load_question_file(questions))
        say(f"{count} questions")
    return Seen(checkpoint=checkpoint.path, questions=questions.path, count=count)


class Trip:
    """From a flow with one home to a worker with another, and a shared folder between."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, questions: QuestionFile) -> None:
        self.folder, self.shared = folder, str(folder / "shared")
        self.inputs: dict[str, Any] = {"checkpoint": checkpoint, "questions": questions}
        self.flow = Settings(home=folder / "flow", shared=self.shared)

    def order(self, *, is_elsewhere: bool = True) -> WorkOrder:
        return Dispatch(self.flow, is_elsewhere=is_elsewhere).order(self.inputs)

    def run(self, order: WorkOrder) -> State[Seen]:
        state: State[Seen] = on_worker(look, "look", order)(**self.inputs)
        return state


@pytest.fixture
def trip(
    tmp_path: Path, demo_checkpoint: Path, demo_questions: Path, monkeypatch: pytest.MonkeyPatch
) -> Trip:
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(demo_questions.read_text().splitlines()[:3]) + "\n")
    asked = load_questions(few)
    questions = QuestionFile(path=few, digest=questions_digest(asked), count=len(asked))
    made = Trip(tmp_path, admit_checkpoint(demo_checkpoint), questions)
    monkeypatch.setenv("INGOT_HOME", str(tmp_path / "worker"))
    monkeypatch.setenv("INGOT_SHARED", made.shared)
    return made


def environment_of(kind: str) -> Environment:
    return Environment.model_construct(machine_class=kind)


# ---------------------------------------------------------------- what a step finds there


def test_step_reads_checkpoint_and_questions_in_the_workers_home(trip: Trip) -> None:
    seen = trip.run(trip.order()).data
    home = trip.folder / "worker" / "store" / "objects"
    assert seen.checkpoint == home / trip.inputs["checkpoint"].digest
    assert seen.questions.is_relative_to(home)
    assert seen.count == 3
    model = trip.inputs["checkpoint"].path / "model.safetensors"
    assert (seen.checkpoint / "model.safetensors").read_bytes() == model.read_bytes()


def test_fetched_checkpoint_is_admitted_as_the_same(trip: Trip) -> None:
    seen = trip.run(trip.order()).data
    assert admit_checkpoint(seen.checkpoint, name="x").digest == trip.inputs["checkpoint"].digest


def test_workers_of_this_machine_read_the_files_where_they_are(trip: Trip) -> None:
    seen = trip.run(trip.order(is_elsewhere=False)).data
    assert seen.checkpoint == trip.inputs["checkpoint"].path
    assert not (trip.folder / "shared").exists()


def test_state_says_how_the_step_ended(trip: Trip) -> None:
    state = trip.run(trip.order())
    assert state.is_completed()
    assert state.message == "3 questions"


def test_what_is_not_shared_any_more_is_transient(trip: Trip) -> None:
    order = trip.order()
    store_of(trip.flow).discard(trip.inputs["checkpoint"].digest)
    with pytest.raises(ResourceBusy, match="finds no object"):
        trip.run(order)


def test_files_are_shared_once(trip: Trip, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[str] = []
    share = remote_tasks.share_checkpoint

    def counting(checkpoint: Checkpoint, store: Any) -> None:
        shared.append(checkpoint.digest)
        share(checkpoint, store)

    monkeypatch.setattr(remote_tasks, "share_checkpoint", counting)
    dispatch = Dispatch(trip.flow, is_elsewhere=True)
    assert dispatch.order(trip.inputs) == dispatch.order(trip.inputs)
    assert len(shared) == 1


# ---------------------------------------------------------------- which workers are refused


def test_worker_with_another_shared_place_is_refused(
    trip: Trip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_SHARED", "/somewhere/else")
    with pytest.raises(EnvironmentUnfit, match="INGOT_SHARED") as refused:
        trip.run(trip.order())
    assert refused.value.got == "file:///somewhere/else"


@pytest.mark.parametrize("part", ["code", "toolchain"])
def test_worker_with_other_code_or_tools_is_refused(trip: Trip, part: str) -> None:
    order = trip.order().model_copy(update={part: "0" * 64})
    with pytest.raises(EnvironmentUnfit, match="is not what the release was started on"):
        trip.run(order)


def test_worker_of_another_kind_is_refused_for_what_depends_on_it(trip: Trip) -> None:
    trip.inputs["environment"] = environment_of("0" * 64)
    work = on_worker(lambda environment: environment, "x", trip.order())
    with pytest.raises(EnvironmentUnfit, match="the kind of machine"):
        work(trip.inputs["environment"])
    assert work(environment_of(remote_tasks.machine_class_here())).is_completed()


def test_kind_of_machine_is_that_of_the_environment_check() -> None:
    from tasks.environment.cpu import read_cpu
    from tasks.environment.packages import compare_packages, read_pins

    expected = machine_class(read_cpu(), compare_packages(read_pins()))
    assert remote_tasks.machine_class_here() == expected


def test_threads_that_an_engine_bound_are_free_again(
    trip: Trip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    trip.run(trip.order())
    assert "OMP_NUM_THREADS" not in os.environ
    assert os.environ["MKL_NUM_THREADS"] == "4"


def test_task_of_a_release_travels_by_pickle(trip: Trip) -> None:
    sent = at_worker(build_variant, "build int4", trip.order())
    got = cloudpickle.loads(cloudpickle.dumps(sent))
    assert got.name == build_variant.name
    assert got.retries == build_variant.retries
    assert got.cache_policy.compute_key is not None
    assert build_variant.fn is not sent.fn


# ---------------------------------------------------------------- which settings are refused


def test_threads_are_the_default() -> None:
    assert isinstance(runner_of(Settings(runner="thread")), ThreadPoolTaskRunner)


def test_cluster_runner_duplicates_itself_and_starts_nothing() -> None:
    runner = runner_of(Settings(runner="dask", cluster="tcp://nowhere:1"))
    with runner.duplicate() as twin:
        assert isinstance(twin, ClusterRunner)
    assert cloudpickle.loads(cloudpickle.dumps(runner)).name == runner.name


def test_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_SHARED", "")
    assert Settings().shared is None


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolMissing, match="prefect-ray, which is not installed") as missing:
        prepare_cluster(Settings(runner="ray"))
    assert missing.value.next_step == "python make.py cluster"


def test_cluster_without_a_shared_place_is_refused() -> None:
    with pytest.raises(InputError, match="INGOT_SHARED"):
        prepare_cluster(Settings(runner="dask", cluster="tcp://head:8786"))


def test_cluster_that_cannot_reach_the_server_is_refused(tmp_path: Path) -> None:
    settings = Settings(runner="dask", cluster="tcp://head:8786", shared=str(tmp_path))
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}),
        pytest.raises(EnvironmentUnfit, match="cannot reach this Prefect server"),
    ):
        prepare_cluster(settings)


def test_release_is_importable_without_any_engine() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys("
        "('prefect_dask', 'prefect_ray', 'distributed', 'ray', 's3fs')));"
        "import flows.release; print(type(flows.release.RUNNER).__name__)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("INGOT_")}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "ThreadPoolTaskRunner"


# ---------------------------------------------------------------- where the records are


@pytest.mark.usefixtures("prefect_server")
def test_records_of_a_url_have_a_block_without_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-shown")
    settings = Settings(shared="memory://place/x")
    prepare_cluster(settings)
    prepare_cluster(settings)
    block = RemoteFileSystem.load(records_block(shared_url("memory://place/x")), _sync=True)
    assert block.basepath == "memory://place/x/records"
    assert block.settings == {}


def test_records_of_a_folder_are_in_it(tmp_path: Path) -> None:
    assert record_storage(Settings(shared=str(tmp_path))) == tmp_path / "records"
    assert record_storage(Settings(home=tmp_path)) == tmp_path / "records"
