"""The same release on threads, on Dask and on Ray: the same bytes, the same verdicts.

Each cluster has two workers, processes with a home of their own; between them and the flow there
is nothing but an S3 server on loopback and Prefect's API.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster_rig import Rig, rig, start_dask, start_ray, wait_until
from tests.s3_server import SECRET

pytestmark = pytest.mark.real

REMOTE = {"build fp32", "build int4", "build int8", "build fp16", "examine reference"}
REMOTE |= {f"{verb} int4" for verb in ("examine", "edge cases", "soak", "stage")}
TIMED = {"tune variants", "measure speed"}

FEW_QUESTIONS = [
    "top1_decisive",
    "text_top1_decisive",
    "answers_right",
    "answers_delta",
    "recovery",
    "flip_rate",
    "stopped_ratio",
    "loops_delta",
    "over_refusals",
    "missed_refusals",
    "format_delta",
    "json_delta",
    "schema_delta",
    "guided_right",
    "found_delta",
    "filler_same",
]

# Makes the INT4 that a worker publishes another by one bit, before it is hashed: the last one of a
# scale (the file ends with them, little-endian float32), so that the release is no other for it.
ALTERING = """
from tasks.core.store import Store
publish = Store.publish
def altering(self, staged):
    config = staged / "olive_config.json"
    if config.exists() and '"precision": "int4"' in config.read_text():
        model = staged / "model.onnx.data"
        content = bytearray(model.read_bytes())
        content[-4] ^= 1
        model.write_bytes(content)
    return publish(self, staged)
Store.publish = altering
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="module")
def order(site: Rig, demo_checkpoint: Path, demo_questions: Path) -> tuple[str | Path, ...]:
    """Twelve questions: enough to compare; what they cannot decide shall keep nothing back."""
    questions = demo_questions.read_text(encoding="utf-8").splitlines()
    file, policy = site.folder / "questions.jsonl", site.folder / "policy.toml"
    file.write_text("\n".join(questions[:: len(questions) // 12][:12]) + "\n", encoding="utf-8")
    lenient = (f'[gates.{gate}]\ninconclusive = "warn"\n' for gate in FEW_QUESTIONS)
    policy.write_text("\n".join(lenient), encoding="utf-8")
    what = ("--questions", file, "--policy", policy)
    return (demo_checkpoint, "--name", "demo", "--examination", "smoke", *what)


@pytest.fixture(scope="module")
def alone(site: Rig, order: Any) -> dict[str, Any]:
    """What one machine makes of it, with nothing shared."""
    return site.release("alone", *order, INGOT_SHARED="")


@pytest.fixture(scope="module")
def dask(site: Rig) -> dict[str, str]:
    address = start_dask(site, ["dask-one", "dask-two"])
    return {"INGOT_RUNNER": "dask", "INGOT_CLUSTER": address}


@pytest.fixture(scope="module")
def on_dask(site: Rig, order: Any, dask: dict[str, str]) -> dict[str, Any]:
    return site.release("dask-flow", *order, **dask)


@pytest.fixture(scope="module")
def on_ray(site: Rig, order: Any) -> dict[str, Any]:
    shared = site.environment["INGOT_SHARED"].replace("/shared", "/of-ray")
    address = start_ray(site, ["ray-one", "ray-two"], INGOT_SHARED=shared)
    places = {"INGOT_RUNNER": "ray", "INGOT_CLUSTER": address, "INGOT_SHARED": shared}
    return site.release("ray-flow", *order, **places)


def digests(outcome: dict[str, Any]) -> dict[str, str]:
    return {v["recipe"]["precision"]: v["digest"] for v in outcome["variants"]}


def verdicts(outcome: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Give the verdict of every gate of every variant but of those on measured time or memory."""
    return {
        v["variant"]: {"all": v["verdict"]}
        | {g["gate"]: g["verdict"] for g in v["gates"] if is_repeatable(g["metric"])}
        for v in outcome["judgement"]["verdicts"]
    }


def is_repeatable(metric: str) -> bool:
    return not metric.startswith(("speed.", "soak.", "lengths.latency", "foundry.reload"))


def timings(outcome: dict[str, Any]) -> dict[str, dict[str, Any]]:
    document = json.loads((Path(outcome["report"]).parent / "metrics.json").read_text())
    return {timing["step"]: timing for timing in document["timings"]}


def worked(site: Rig, home: str) -> set[str]:
    return {log.name.split("-")[0] for log in (site.folder / home / "logs").glob("*.log")}


# ---------------------------------------------------------------- the same as alone


def test_dask_gives_the_same_bytes_and_verdicts_as_threads(
    alone: dict[str, Any], on_dask: dict[str, Any]
) -> None:
    assert len(digests(alone)) == 3
    assert digests(on_dask) == digests(alone)
    assert verdicts(on_dask) == verdicts(alone)
    assert min(map(len, verdicts(alone).values())) > 30
    assert on_dask["judgement"]["champion"] == alone["judgement"]["champion"]
    assert on_dask["failures"] == alone["failures"] == {}


def test_ray_gives_the_same_bytes_and_verdicts_as_threads(
    alone: dict[str, Any], on_ray: dict[str, Any]
) -> None:
    assert digests(on_ray) == digests(alone)
    assert verdicts(on_ray) == verdicts(alone)
    assert on_ray["judgement"]["champion"] == alone["judgement"]["champion"]
    assert on_ray["failures"] == {}


@pytest.mark.usefixtures("on_dask", "on_ray")
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_work_was_done_by_workers_in_homes_of_their_own(site: Rig, engine: str) -> None:
    assert "build" in worked(site, f"{engine}-one") | worked(site, f"{engine}-two")
    assert worked(site, f"{engine}-one")
    assert worked(site, f"{engine}-two")
    assert "build" not in worked(site, f"{engine}-flow")


# ---------------------------------------------------------------- what the report says of it


def test_steps_of_workers_have_their_times_and_details(
    alone: dict[str, Any], on_dask: dict[str, Any]
) -> None:
    here, there = timings(alone), timings(on_dask)
    assert set(here) - {"start Prefect"} <= set(there)
    assert on_dask["cached"] == []
    for name in REMOTE | TIMED:
        # The smoke profile tunes nothing; whatever else runs away from here takes its time.
        assert there[name]["seconds"] > (0.0 if name == "tune variants" else 0.1), name
        assert bool(there[name]["detail"]) == bool(here[name]["detail"]), name
    assert "MB" in there["build int4"]["detail"]


def test_second_run_from_another_machine_finds_everything_cached(
    site: Rig, order: Any, dask: dict[str, str], on_dask: dict[str, Any]
) -> None:
    again = site.release("dask-flow-two", *order, **dask)
    assert set(again["cached"]) >= REMOTE | TIMED
    assert digests(again) == digests(on_dask)
    assert verdicts(again) == verdicts(on_dask)
    assert again["registration"]["right"] == on_dask["registration"]["right"]


@pytest.mark.usefixtures("on_dask", "on_ray")
def test_no_secret_is_in_logs_records_or_the_server(site: Rig) -> None:
    assert SECRET not in site.logs()
    database = b"".join(f.read_bytes() for f in (site.folder / "prefect").glob("prefect.db*"))
    assert b"ingot-records-" in database
    assert SECRET.encode() not in database


# ---------------------------------------------------------------- faults


def test_release_ends_though_a_worker_is_killed_in_the_middle_of_a_build(
    site: Rig, order: Any, alone: dict[str, Any]
) -> None:
    shared = site.environment["INGOT_SHARED"].replace("/shared", "/killed")
    address = start_dask(site, ["killed-one", "killed-two"], INGOT_SHARED=shared)
    places = {"INGOT_RUNNER": "dask", "INGOT_CLUSTER": address, "INGOT_SHARED": shared}
    release = site.releasing("killed-flow", *order, "-p", "int4", **places)
    victim = wait_for(lambda: building(site.folder / "killed-one"))
    victim.kill()
    output, errors = release.communicate(timeout=580)
    outcome = json.loads(output)
    assert outcome["failures"] == {}, errors.decode()[-2000:]
    assert digests(outcome) == {"int4": digests(alone)["int4"]}


def test_worker_that_alters_a_byte_is_seen(
    site: Rig, order: Any, alone: dict[str, Any], tmp_path: Path
) -> None:
    """The comparison above can fail."""
    (tmp_path / "sitecustomize.py").write_text(ALTERING)
    shared = site.environment["INGOT_SHARED"].replace("/shared", "/altered")
    path = f"{tmp_path}:{site.environment['PYTHONPATH']}"
    planted = {"INGOT_SHARED": shared, "PYTHONPATH": path}
    address = start_dask(site, ["altered-one"], **planted)
    places = {"INGOT_RUNNER": "dask", "INGOT_CLUSTER": address, "INGOT_SHARED": shared}
    altered = digests(site.release("altered-flow", *order, "-p", "int4", **places))
    assert list(altered) == ["int4"]
    assert altered["int4"] != digests(alone)["int4"]


def wait_for(find: Callable[[], psutil.Process | None]) -> psutil.Process:
    found: list[psutil.Process] = []

    def look() -> bool:
        found.extend(filter(None, [find()]))
        return bool(found)

    wait_until(look)
    return found[0]


def building(home: Path) -> psutil.Process | None:
    """Give the worker process of a home while it has a building child."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any("build_child:build" in word for word in line):
            parent = process.parent()
            if parent and parent.environ().get("INGOT_HOME") == str(home):
                return parent
    return None
