"""The looks of the fault suite are themselves tried on homes that are not as they should be.

Here and not beside them, because a look that cannot fail must be noticed by every `make test`; and
among the real ones, because Foundry Local itself is asked for its index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.files import sync_file, sync_folder
from tasks.core.store import Store
from tasks.variants.build import BUILD_TARGET, FAN_OUT_TARGET
from tasks.variants.build_records import BuildRequest, FanOutRequest
from tests.faults import inside, look
from tests.faults.bench import Bench
from tests.faults.points import FOLDER, Meeting, of_step
from tests.faults.power_cut import cut_power

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give a home with one object, and a champion that is nowhere else."""
    home = tmp_path / "home"
    store = Store(home / "store")
    with store.staging() as folder:
        (folder / "model.onnx").write_text("weights")
        store.publish(folder)
    return home


def the_object(home: Path) -> Path:
    return next((home / "store" / "objects").iterdir())


def damage_object(home: Path) -> None:
    file = the_object(home) / "model.onnx"
    file.chmod(0o644)
    file.write_text("weighty")


def show_half_made_object(home: Path) -> None:
    (home / "store" / "objects" / ("0" * 64)).mkdir()


def show_half_made_model(home: Path) -> None:
    (home / "foundry" / "custom" / "demo-int4-cpu" / "v1").mkdir(parents=True)


def show_half_made_run(home: Path) -> None:
    (home / "runs" / "20260101T000000Z-demo").mkdir(parents=True)


def cut_ledger(home: Path) -> None:
    (home / "ledger").mkdir()
    (home / "ledger" / "demo.json").write_text('{"name": "demo", "champ')


def empty_index(home: Path) -> None:
    (home / "foundry").mkdir()
    (home / "foundry" / "foundry.local.modelinfo.json").write_text("")


def name_lost_champion(home: Path) -> None:
    champion = {
        "model_id": "demo-int4-cpu:1",
        "variant": the_object(home).name,
        "checkpoint": "0" * 64,
        "precision": "int4",
        "run_id": "r",
        "since": "2026-01-01T00:00:00Z",
        "size_bytes": 7,
    }
    page = {"name": "demo", "champions": [champion]}
    (home / "ledger").mkdir()
    (home / "ledger" / "demo.json").write_text(json.dumps(page))


def test_home_that_is_right_has_no_problems(home: Path) -> None:
    assert look.whatever_died(home) == []
    assert look.nothing_left_over(home) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_object, "visible and not whole"),
        (show_half_made_object, "visible and not whole"),
        (show_half_made_model, "model folder"),
        (show_half_made_run, "cannot be read"),
        (cut_ledger, "ledger of demo cannot be read"),
        (empty_index, "Foundry Local cannot read its index"),
        (name_lost_champion, "not what Foundry Local has"),
    ],
)
def test_damage_is_seen(home: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(home)
    found = look.whatever_died(home)
    assert [problem for problem in found if words in problem], found


@pytest.mark.parametrize(
    "left",
    ["store/tmp/h-1-2", "runs/r.partial", "foundry/custom/a/.v1.partial", "foundry-staging/h-1-2"],
)
def test_leftover_is_seen(home: Path, left: str) -> None:
    (home / left).mkdir(parents=True)
    assert look.nothing_left_over(home) == [f"left over: {left}"]


def test_process_that_stays_is_seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "GONE_WITHIN_S", 0.5)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(command, env={**os.environ, "INGOT_HOME": str(home)})
    try:
        assert look.no_process_of(home)
        assert not look.no_process_of(home, frozenset({process.pid}))
    finally:
        process.kill()
        process.wait()


def test_build_too_many_is_seen_alone_and_together(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, None, tmp_path / "prefect", tmp_path / "questions.jsonl")
    for target, request in (
        (BUILD_TARGET, {"recipe": {"precision": "int4"}}),
        (FAN_OUT_TARGET, {"recipes": [{"precision": "fp32"}, {"precision": "int4"}]}),
    ):
        (tmp_path / "request.json").write_text(json.dumps(request))
        start = {"kind": "start", "role": target, "subjects": inside._subjects([str(tmp_path)])}
        inside._append(bench.meeting.journal, json.dumps(start))
    assert {"recipes"} <= set(FanOutRequest.model_fields)
    assert {"recipe"} <= set(BuildRequest.model_fields)
    bench.require_builds({"fp32": 1, "int4": 2}, most_in_all=3)
    assert bench.problems == []
    bench.require_builds({"int4": 1})
    bench.require_builds({"fp32": 1, "int4": 2}, most_in_all=2)
    assert len(bench.problems) == 3


# ------------------------------------------------------------------ what the shim writes down

PUBLISH = """
import sys
from pathlib import Path
from tasks.core import files
from tasks.core.store import Store
if "unsynced" in sys.argv:
    import tasks.core.store as module
    module._seal = lambda folder: None
if "no-folder-sync" in sys.argv:
    import tasks.core.store as module
    seal = module._seal
    module._seal = lambda folder: (seal(folder), setattr(module, "sync_folder", lambda path: None))
from tests.faults import inside
from tests.faults.points import FLOW, Meeting
inside.Inside(Meeting(Path(sys.argv[1])), FLOW).watch([])
store = Store(Path(sys.argv[2]) / "store")
with store.staging() as folder:
    (folder / "model.onnx").write_text("other weights")
    store.publish(folder)
"""


def publish(home: Path, meeting: Meeting, *how: str) -> None:
    meeting.folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", PUBLISH, str(meeting.folder), str(home), *how]
    environment = {**os.environ, "INGOT_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    environment.pop(FOLDER, None)
    subprocess.run(command, env=environment, cwd=REPOSITORY, check=True)


def test_object_that_is_published_in_order_survives_a_power_cut(home: Path, tmp_path: Path) -> None:
    meeting, began = Meeting(tmp_path / "faults"), time.time()
    time.sleep(0.05)
    publish(home, meeting)
    assert look.nothing_visible_before_it_was_synced(meeting) == []
    assert cut_power(home, meeting, began) == []
    assert look.whatever_died(home) == []


def test_object_that_is_published_unsynced_is_seen_and_lost(home: Path, tmp_path: Path) -> None:
    meeting, began = Meeting(tmp_path / "faults"), time.time()
    time.sleep(0.05)
    publish(home, meeting, "unsynced")
    assert look.nothing_visible_before_it_was_synced(meeting)
    assert [lost for lost in cut_power(home, meeting, began) if "model.onnx" in lost]
    assert look.whatever_died(home)


def test_rename_whose_folder_is_not_synced_is_undone(home: Path, tmp_path: Path) -> None:
    meeting, began = Meeting(tmp_path / "faults"), time.time()
    (home / "store" / "objects").touch()
    time.sleep(0.05)
    publish(home, meeting, "no-folder-sync")
    lost = cut_power(home, meeting, began)
    assert [one for one in lost if one.startswith("rename to store/objects/")]


def test_each_point_stops_one_process_once(tmp_path: Path) -> None:
    meeting = Meeting(tmp_path / "faults")
    meeting.plant([of_step("build int4", "started")])
    meeting.reached_file(0).write_text("1\n")
    shim = inside.Inside(meeting, "flow")
    shim._stop(0)  # stands still for ever if the point counts twice
    meeting.plant([])
    assert not meeting.reached_file(0).exists()


def test_content_changed_after_its_sync_counts_as_not_synced(tmp_path: Path) -> None:
    meeting = Meeting(tmp_path)
    file = tmp_path / "file"
    file.write_text("one")
    sync_file(file)
    sync_folder(tmp_path)
    inside._append(meeting.synced, json.dumps([time.time(), *inside.identity(file.stat())]))
    assert inside.unsynced_below(file, meeting) == []
    file.write_text("other")
    assert inside.unsynced_below(file, meeting) == [str(file)]
