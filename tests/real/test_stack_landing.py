"""What Ingot is for, left alone: a checkpoint is copied, slowly, and a champion answers."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.slowness import slowness
from tests.stack_runs import Ingot, soon

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

STARTS_WITHIN_S = 15  # of the last byte, on a machine that has time for it
# However slow the machine: only the start of the run's process is lengthened by it, none of the
# waits before that. Slowed more than four times, it cannot tell a lost notice from a late one.
NEVER_LATER_S = 60
SHARDS = 3
RELEASE_S = 1200


@pytest.fixture(scope="module")
def ingot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingot]:
    found = Ingot(tmp_path_factory.mktemp("landing"))
    try:
        found.up()
        _examine_briefly(found)
        yield found
    finally:
        found("down")
        for process in found.processes():
            process.kill()


def _examine_briefly(ingot: Ingot) -> None:
    """Have the trigger ask for one variant and the smallest examination; all else stays."""
    (trigger,) = [
        one
        for one in ingot.post("/automations/filter")
        if one["name"].endswith("release-what-landed")
    ]
    (action,) = trigger["actions"]
    value = action["parameters"]["request"]["value"]
    brief = value["template"].rstrip().removesuffix("}")
    value["template"] = f'{brief}, "examination": "smoke", "precisions": ["int4"]}}'
    changed = {
        key: trigger[key] for key in ("name", "description", "enabled", "trigger", "actions")
    }
    ingot.put(f"/automations/{trigger['id']}", changed)


@pytest.fixture(scope="module")
def sharded(
    tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Path, demo_questions: Path
) -> Path:
    """Give the demo checkpoint in shards, with its questions."""
    folder = tmp_path_factory.mktemp("sharded") / "demo"
    shutil.copytree(demo_checkpoint, folder)
    shutil.copy(demo_questions, folder)
    with safe_open(folder / "model.safetensors", "numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number in range(SHARDS):
        name = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = dict(list(tensors.items())[number::SHARDS])
        save_file(part, folder / name, metadata=metadata)
        weight_map |= dict.fromkeys(part, name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def copy_slowly(source: Path, target: Path) -> float:
    """Copy file by file, shards last and in pieces; gives when the last byte was written."""
    target.mkdir(parents=True)
    for file in sorted(source.iterdir(), key=lambda file: (file.suffix == ".safetensors", file)):
        content = file.read_bytes()
        pieces = 4 if file.suffix == ".safetensors" else 1
        with (target / file.name).open("wb", buffering=0) as stream:
            for piece in range(pieces):
                time.sleep(0.5)
                begin, end = (len(content) * n // pieces for n in (piece, piece + 1))
                stream.write(content[begin:end])
    return time.time()


def since(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def objects(ingot: Ingot) -> set[str]:
    return {entry.name for entry in (ingot.home / "store" / "objects").iterdir()}


def ended(ingot: Ingot, count: int) -> list[dict[str, Any]] | None:
    runs = [run for run in ingot.runs() if run["end_time"]]
    return runs if len(runs) >= count else None


def test_slowly_copied_checkpoint_is_released_once(
    ingot: Ingot, sharded: Path, record_property: Any
) -> None:
    slow = slowness()
    last_byte = copy_slowly(sharded, ingot.home / "landing" / "demo")
    assert ingot.runs() == []  # half a checkpoint starts nothing
    (run,) = soon(
        lambda: [run for run in ingot.runs() if run["start_time"]], "a run" + ingot.logs()
    )
    slow = max(slow, slowness())
    waited = since(run["start_time"]) - last_byte
    record_property("seconds_from_last_byte_to_start", round(waited, 1))
    print(f"started {waited:.1f} s after the last byte; the machine is {slow:.1f} times slowed")
    assert waited < min(STARTS_WITHIN_S * slow, NEVER_LATER_S)
    (run,) = soon(lambda: ended(ingot, 1), "the release's end", RELEASE_S)
    assert run["state_type"] == "COMPLETED", (run["state"], ingot.logs())
    champions = json.loads(ingot("list", "--json").stdout)
    assert [one["champion"] for one in champions] == ["demo-int4-cpu:1"]
    status = ingot.status()
    assert [one["name"] for one in status["last"]] == ["release-demo"]


def test_same_bytes_again_build_nothing(ingot: Ingot, sharded: Path) -> None:
    before = objects(ingot)
    again = ingot.home / "landing" / "demo" / "again"
    copy_slowly(sharded, again)
    # The watcher knows these bytes. Somebody who posts the event all the same gets a run.
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "checkpoint.landed",
        "resource": {"prefect.resource.id": "checkpoint.0123456789abcdef"},
        "payload": {"path": str(again), "name": "demo"},
    }
    ingot.post("/events", [event])
    runs = soon(lambda: ended(ingot, 2), "the second run's end", RELEASE_S)
    assert len(ingot.runs()) == 2
    assert runs[1]["state_type"] == "COMPLETED", runs[1]["state"]
    steps = ingot.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [runs[1]["id"]]}}})
    builds = {one["name"]: one["state_name"] for one in steps if one["name"].startswith("build")}
    assert builds
    assert set(builds.values()) == {"Cached"}
    assert objects(ingot) == before


def test_down_in_the_middle_cancels_the_run_and_its_children(ingot: Ingot, sharded: Path) -> None:
    copy_slowly(sharded, ingot.home / "landing" / "other")
    soon(lambda: [run for run in ingot.runs() if run["state_type"] == "RUNNING"], "a third run")
    answer = ingot("down")
    assert answer.returncode == 0
    assert "Cancelled release-other" in answer.stdout
    assert ingot.processes() == []
