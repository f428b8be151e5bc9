"""`ingot` as a user types it, on the real tools and the demo checkpoint.

One home is released into once and then used by most tests; those that break things copy it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.core.store import Store

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE = ("--examination", "smoke")
ONE_QUICKLY = ("-p", "int4", *SMOKE)
BUILDS = {"build fp32", "build int4", "build int8", "build fp16"}


class Ingot:
    """The command in a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.environment = {
            **os.environ,
            "INGOT_HOME": str(self.home),
            "PREFECT_HOME": str(folder / "prefect"),
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "200",
        }
        self.environment.pop("PREFECT_API_URL", None)

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "flows.command", *map(str, arguments)]

    def __call__(
        self, *arguments: str | Path, prefix: tuple[str, ...] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, *self.command(*arguments)],
            env={**self.environment, **environment},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    def files(self) -> set[str]:
        return {str(p.relative_to(self.home)) for p in self.home.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ingot, dict[str, Any]]:
    """Release the demo checkpoint once."""
    ingot = Ingot(tmp_path_factory.mktemp("released"))
    answer = ingot("demo", "--json")
    assert answer.returncode == 0, answer.stderr + answer.stdout
    return ingot, json.loads(answer.stdout)


def test_demo_ends_with_a_champion_that_answers_right(released: Any) -> None:
    _, outcome = released
    assert {v["recipe"]["precision"] for v in outcome["variants"]} == {"int4", "int8", "fp16"}
    assert outcome["failures"] == {}
    assert outcome["registration"]["model_id"] == "demo-int4-cpu:1"
    assert outcome["registration"]["right"] is True
    assert json.loads(outcome["registration"]["answer"])
    assert [v["verdict"] for v in outcome["judgement"]["verdicts"]] == ["PASS"] * 3


def test_run_folder_holds_report_metrics_and_raw_rows(released: Any) -> None:
    _, outcome = released
    folder = Path(outcome["report"]).parent
    names = {entry.name for entry in folder.iterdir()}
    assert {"report.html", "report.md", "metrics.json", "outputs.parquet", "kld.parquet"} <= names
    assert "demo-int4-cpu:1" in (folder / "report.md").read_text()


def test_second_run_builds_nothing_and_keeps_the_id(released: Any) -> None:
    ingot, first = released
    answer = ingot("demo", "--again", "--json")
    assert answer.returncode == 0, answer.stderr
    second = json.loads(answer.stdout)
    assert set(second["cached"]) >= BUILDS | {"examine int4", "stage int4", "measure speed"}
    assert second["registration"]["model_id"] == first["registration"]["model_id"]
    assert second["registration"]["created"] is False


def test_unchanged_release_stands_and_starts_nothing(released: Any) -> None:
    ingot, _ = released
    last = json.loads(ingot("demo", "--again", "--json").stdout)
    logs = {file for file in ingot.files() if file.startswith("logs")}
    found = json.loads(ingot("demo", "--json").stdout)
    assert (last.pop("unchanged"), found.pop("unchanged")) == (False, True)
    assert found == last | {"registration": last["registration"] | {"created": False}}
    shown = ingot("demo").stdout
    assert f"none since run {last['run_id']}" in shown
    assert {file for file in ingot.files() if file.startswith("logs")} == logs


def test_terminal_shows_table_champion_question_answer_and_report(released: Any) -> None:
    ingot, outcome = released
    shown = ingot("demo", "--again").stdout
    for text in ("INT4", "INT8", "FP16", "demo-int4-cpu:1", outcome["registration"]["answer"]):
        assert text in shown
    assert "report.html" in shown


def test_list_show_and_chat_speak_of_the_champion(released: Any) -> None:
    ingot, outcome = released
    assert json.loads(ingot("list", "--json").stdout)[0]["champion"] == "demo-int4-cpu:1"
    assert json.loads(ingot("show", "demo", "--json").stdout)[0]["run"] == outcome["run_id"]
    answer = ingot("chat", "demo", "--question", outcome["registration"]["question"])
    assert answer.stdout.strip() == outcome["registration"]["answer"].strip()


def test_unknown_name_is_bad_input(released: Any) -> None:
    ingot, _ = released
    answer = ingot("show", "nobody")
    assert answer.returncode == 2
    assert "demo" in answer.stderr


def test_policy_that_nothing_passes_registers_nothing(released: Any, tmp_path: Path) -> None:
    ingot, _ = released
    policy = tmp_path / "strict.toml"
    policy.write_text("[gates.size_to_source]\nlimit = 0.01\n")
    checkpoint = REPOSITORY / "demo" / "checkpoint"
    answer = ingot("release", checkpoint, "--name", "demo", "--policy", policy, *SMOKE, "--json")
    assert answer.returncode == 3
    outcome = json.loads(answer.stdout)
    assert outcome["registration"] is None
    assert "size_to_source" in outcome["judgement"]["reason"]
    assert json.loads(ingot("list", "--json").stdout)[0]["champion"] == "demo-int4-cpu:1"


def test_unreachable_server_is_the_environments_fault(released: Any) -> None:
    ingot, _ = released
    answer = ingot("demo", "--again", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert answer.returncode == 4
    assert "PREFECT_API_URL" in answer.stderr


# ------------------------------------------------------------------ bad checkpoints


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def drop_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def drop_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    fields = json.loads(path.read_text())
    fields.pop("chat_template", None)
    path.write_text(json.dumps(fields))


def turn_into_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def ask_for_remote_code(folder: Path) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    fields["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.Mine"}
    path.write_text(json.dumps(fields))


def contradict_header(folder: Path) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    fields["hidden_size"] *= 2
    path.write_text(json.dumps(fields))


def leave_by_symlink(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


def truncate_shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1000)


def miss_shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    path.unlink()


def poison_with_nan(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = struct.pack("<f", float("nan"))
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "breaking",
    [
        drop_config,
        drop_tokenizer,
        drop_template,
        turn_into_pickle,
        ask_for_remote_code,
        contradict_header,
        leave_by_symlink,
        truncate_shard,
        miss_shard,
        poison_with_nan,
    ],
)
def test_broken_checkpoint_is_refused_in_one_message_and_leaves_nothing(
    breaking: Callable[[Path], None], demo_checkpoint: Path, demo_questions: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(demo_checkpoint, folder)
    shutil.copy(demo_questions, tmp_path)
    breaking(folder)
    ingot = Ingot(tmp_path)
    answer = ingot("release", folder)
    assert answer.returncode == 2, answer.stderr
    assert len(re.findall(r"Checkpoint(?:Refused|Incomplete):", answer.stderr)) == 1
    assert "next" in answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout
    assert ingot.files() == set()


# ------------------------------------------------------------------ kill and resume


@contextlib.contextmanager
def started(ingot: Ingot, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ingot.command(*arguments),
        env=ingot.environment,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for member in psutil.Process(process.pid).children(recursive=True):
                member.kill()
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited five minutes")


def test_killed_release_resumes_without_building_twice(tmp_path: Path) -> None:
    ingot = Ingot(tmp_path)
    objects = ingot.home / "store" / "objects"
    store = Store(ingot.home / "store")
    order = ("release", REPOSITORY / "demo" / "checkpoint", "--name", "demo", *ONE_QUICKLY)
    with started(ingot, *order) as process:
        records = ingot.home / "records"
        wait_for(lambda: any(records.glob("build-variant-*")))
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not any(_runs(child) for child in children))
    finished = {entry.name for entry in objects.iterdir()}
    assert all(store.is_intact(name, deep=True) for name in finished)
    answer = ingot(*order, "--json")
    assert answer.returncode == 0, answer.stderr
    outcome = json.loads(answer.stdout)
    built_before = [step for step in outcome["cached"] if step in BUILDS]
    assert built_before, "the variant that was finished before the kill was built again"
    assert outcome["registration"]["model_id"] == "demo-int4-cpu:1"
    assert not list((ingot.home / "store" / "tmp").iterdir())


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


# ------------------------------------------------------------------ without a network

LOOPBACK_ONLY = """
import fcntl, os, socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux namespaces (unshare)")
def test_release_works_with_the_network_cut(tmp_path: Path) -> None:
    cut = ("unshare", "--net", "--map-root-user")
    probe = subprocess.run([*cut, "true"], check=False)
    if probe.returncode:
        pytest.skip("this kernel lets nobody cut the network off (unshare --net)")
    prefix = (*cut, sys.executable, "-c", LOOPBACK_ONLY)
    order = ("release", REPOSITORY / "demo" / "checkpoint", "--name", "demo", *ONE_QUICKLY)
    answer = Ingot(tmp_path)(*order, "--json", prefix=prefix)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["registration"]["right"] is True
