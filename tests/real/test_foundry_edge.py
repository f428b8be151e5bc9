"""The edge cases on the real Foundry Local, with healthy and faulty variants and a native crash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.records import Message
from tasks.foundry.edge import suite_child
from tasks.foundry.edge.case import Case, Result
from tasks.foundry.edge.catalogue import KILLED, cases
from tasks.foundry.edge.journal import Event, Killing
from tasks.foundry.edge.refusals import refused
from tasks.foundry.edge.suite import FAILURES, EdgeFound, EdgeRequest, put_all_cases
from tasks.foundry.faults import INDEX_FILE
from tasks.foundry.runtime import foundry_runtime
from tests.foundry_variants import tiny_folder

pytestmark = pytest.mark.real

DEEP = "arrays nested 1,000 deep"
TEXTS = ["hello", "Turn on the light.", "What is the temperature?", "naïve café"]


def request_for(tmp_path: Path, folder: Path) -> EdgeRequest:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return EdgeRequest(
        subject="a" * 64,
        folder=folder,
        scratch=scratch,
        frames=tmp_path,
        conversations=[[Message(role="user", content=text)] for text in TEXTS],
        parameters=1,
        hugging_face={},
    )


def put_to(request: EdgeRequest, target: str = "") -> tuple[EdgeFound, pd.DataFrame]:
    found, _ = put_all_cases(
        request,
        log=request.scratch / "log",
        say=lambda _: None,
        **({"target": target} if target else {}),
    )
    return found, pd.read_parquet(request.frames / "foundry_edge.parquet").set_index("case")


def test_healthy_variant_fails_no_case_and_the_service_has_its_known_gaps(tmp_path: Path) -> None:
    """The stand-in of the unit tests has the same gaps: this is what it is held to."""
    found, frame = put_to(request_for(tmp_path, tiny_folder()))
    failures = found.metrics[FAILURES]
    assert (failures.value, failures.ci95, failures.n) == (0.0, None, len(frame)), found.notes
    gaps = set(frame.index[frame.result == Result.GAP])
    needing_counts = {"decomposed accents", "control token in the user's text"}
    assert gaps == {case.name for case in cases() if case.gap} - needing_counts
    assert frame.passed[KILLED.name]
    assert set(frame.columns) >= {"expected", "got", "passed", "seconds"}


def test_context_beyond_the_rope_cache_is_caught_at_the_end_of_the_context(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder(), folder)
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["context_length"] = 2 * config["model"]["context_length"]
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    found, frame = put_to(request_for(tmp_path, folder))
    assert frame.index[~frame.passed].str.startswith("prompt of context-").sum() == 2
    assert "a variant can break it" in found.notes[0]


def lethal(case: Case) -> Case:
    """Give a case that ends the process: 50,000 nested arrays do (measured, 2.2.1)."""
    if case.name != DEEP:
        return case
    nested = b'{"messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    return replace(case, act=refused(DEEP, lambda _: nested).act)


def put_cases_with_a_lethal_one(request: EdgeRequest) -> EdgeFound:
    vars(suite_child)["cases"] = lambda: [lethal(case) for case in cases()][:8]
    return suite_child.put_cases(request)


def test_native_crash_fails_its_case_only(tmp_path: Path) -> None:
    request = request_for(tmp_path, tiny_folder())
    found, frame = put_to(request, f"{__name__}:put_cases_with_a_lethal_one")
    assert list(frame.index[~frame.passed]) == [DEEP]
    assert "SIGSEGV" in frame.got[DEEP]
    assert found.metrics[FAILURES].value == 1
    assert len(frame) == 9


def lose_the_index(index: Path) -> None:
    (index / INDEX_FILE).unlink()


def damage_the_index(index: Path) -> None:
    (index / INDEX_FILE).write_text("{", encoding="utf-8")


def leave_something_behind(index: Path) -> None:
    (index / f"{INDEX_FILE}.tmp").touch()


def answer_otherwise(_: Path) -> None:
    """The journal says that another answer was usual."""


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lose_the_index, "the index lists []"),
        (damage_the_index, "cannot read its model index"),
        (leave_something_behind, "left behind"),
        (answer_otherwise, "and was 'quite another answer'"),
    ],
)
def test_index_or_answer_that_does_not_outlive_a_kill_is_caught(
    tmp_path: Path, plant: Callable[[Path], None], words: str
) -> None:
    request = request_for(tmp_path, tiny_folder())
    index = request.scratch / "index"
    with foundry_runtime(index, request.scratch / "app") as runtime:
        for model_id in (suite_child.MODEL_ID, suite_child.SPARE_ID):
            runtime.register(model_id, tiny_folder(), {})
    request.journal.note(Event(usual="quite another answer"))
    request.journal.note(Event(killing=Killing(cpu_s=1.0, peak_rss_bytes=1)))
    plant(index)
    found = suite_child.put_cases(request)
    assert found.metrics[FAILURES].value == 1
    assert words in found.notes[0]


def test_variant_that_does_not_answer_over_http_is_not_measured(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder(), folder)
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["vocab_size"] = 7
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = suite_child.put_cases(request_for(tmp_path, folder))
    assert found.metrics[FAILURES].value is None
    assert "invalid dimensions" in found.notes[0]
